"""The machine that a stage runs on: device, threads, determinism, and what it cost."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from toolchain.model.errors import ConfigError, Problem


def choose_device(asked: str) -> str:
    """The word `cpu` or `cuda`; raises ConfigError for a device that is not there."""
    there = torch.cuda.is_available()
    if asked == "auto":
        return "cuda" if there else "cpu"
    if asked == "cuda" and not there:
        problem = Problem("--device", "cuda", "cpu or auto: torch finds no GPU here")
        raise ConfigError("the device is not available", [problem])
    return asked


@contextmanager
def deterministic(threads: int | None) -> Iterator[None]:
    """Deterministic torch; what was set before comes back."""
    threads_before = torch.get_num_threads()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    state = torch.random.get_rng_state()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads or threads_before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.set_num_threads(threads_before)
        torch.random.set_rng_state(state)


def circumstances(needs: Sequence[str], device: str, seconds: float) -> dict[str, Any]:
    """What differs from run to run, and what the bits of a result may depend on."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    packages = sorted({"edgec", "numpy", "safetensors", "torch", *needs})
    facts: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak,  # of the process until now
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in packages},
    }
    if device == "cuda":
        facts["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # edgec itself, run from a checkout
        return "not installed"

"""A model under evaluation that runs in torch: float checkpoints, and quantized ones.

Only safetensors are read and no code of a checkpoint is run. Float models compute in float32 on a
CPU and in their stored type on a GPU; GPTQ and AWQ checkpoints run through gptqmodel, in float16.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolchain.evaluate.scoring import F64, Query, Scores
from toolchain.model.errors import CheckpointError, ConfigError, Problem, ToolError
from toolchain.model.json_fields import read_json_object

LOGIT_BYTES = 1 << 29  # float32 logits of one batch, at most
PACKED_METHODS = ("gptq", "gptq_v2", "awq")


class TorchModel:
    """A causal language model of transformers, or anything called alike, in evaluation mode."""

    def __init__(self, module: Any, device: str, context: int) -> None:
        """`module(ids, past_key_values=, use_cache=)` answers with logits (B, T, vocab)."""
        self.context = context
        self.computed_tokens = 0
        self._module = module
        self._device = device
        self._held: list[int] = []
        self._cache: Any = None

    @property
    def vocab_size(self) -> int:
        """Ids of the output layer."""
        return int(self._module.config.vocab_size)

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        """See `Scorer`; several queries run as one batch, padded on the right."""
        results: list[Scores] = []
        for batch in self._batches(queries):
            width = max(len(query.tokens) for query in batch) - 1
            rows = np.zeros((len(batch), width), np.int64)
            for row, query in zip(rows, batch, strict=True):
                row[: len(query.tokens) - 1] = query.tokens[:-1]
            with torch.no_grad():
                ids = torch.from_numpy(rows).to(self._device)
                logits = self._module(ids, use_cache=False).logits
            results += [
                _scores(logits[i, query.first - 1 : len(query.tokens) - 1], query)
                for i, query in enumerate(batch)
            ]
            self.computed_tokens += sum(len(query.tokens) - 1 for query in batch)
        return results

    def next_logits(self, tokens: Sequence[int]) -> F64:
        """See `CausalModel`; keys and values of a shared beginning are kept."""
        shared = _shared_prefix(tokens, self._held)
        shared = min(shared, len(tokens) - 1)
        if shared < len(self._held) or self._cache is None:
            # A cache need not know how to forget (sliding windows, quantized caches).
            self._cache, shared = None, 0
        with torch.no_grad():
            ids = torch.tensor([list(tokens[shared:])], device=self._device)
            out = self._module(ids, past_key_values=self._cache, use_cache=True)
        self._cache, self._held = out.past_key_values, list(tokens)
        self.computed_tokens += len(tokens) - shared
        logits: F64 = out.logits[0, -1].double().cpu().numpy()
        return logits

    def _batches(self, queries: Sequence[Query]) -> Iterator[list[Query]]:
        batch: list[Query] = []
        for query in queries:
            width = max(len(q.tokens) for q in [*batch, query])
            if batch and (len(batch) + 1) * width * self.vocab_size * 4 > LOGIT_BYTES:
                yield batch
                batch = []
            batch.append(query)
        if batch:
            yield batch


def _scores(logits: torch.Tensor, query: Query) -> Scores:
    wide = logits.float()
    targets = torch.from_numpy(query.tokens[query.first :]).to(wide.device)
    chosen = wide.gather(1, targets[:, None])[:, 0] - wide.logsumexp(1)
    greedy = wide.argmax(1) == targets
    return Scores(chosen.double().cpu().numpy(), greedy.cpu().numpy())


def _shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    both = min(len(left), len(right))
    return next((i for i in range(both) if left[i] != right[i]), both)


def pick_device(asked: str) -> str:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`; raises ConfigError if there is none.

    `auto` is the GPU where there is one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if asked == "auto":
        return "cuda" if count else "cpu"
    if asked not in known:
        raise ConfigError(
            "there is no such device",
            [Problem("--device", asked, ", ".join(["auto", "numpy", *known]))],
        )
    return asked


def load_torch_model(directory: Path, device: str) -> tuple[TorchModel, str]:
    """The model of a checkpoint directory, and the name of the type that it computes in.

    A directory with adapter_config.json is a PEFT adapter on a base that is a local directory.
    Raises CheckpointError when transformers or gptqmodel cannot read it.
    """
    base = adapter_base(directory)
    config = read_json_object((base or directory) / "config.json")
    _refuse_pickles(directory, base or directory)
    try:
        with _stdout_is_for_results():
            module = _load(base or directory, config, device)
            if base is not None:
                from peft import PeftModel  # noqa: PLC0415 - 6 s, for adapters only

                module = PeftModel.from_pretrained(module, str(directory)).eval()
    except ImportError as error:
        fix = "install the extra that holds it: pip install 'edgec[compress]'"
        raise ToolError(f"a package for this checkpoint is missing: {error}", fix=fix) from error
    except Exception as error:  # the libraries raise types of their own
        text = str(error).strip().split("\n")[0]
        problem = Problem(str(directory), text, "a safetensors checkpoint of transformers")
        raise CheckpointError("the checkpoint cannot be loaded", [problem]) from error
    context = int(getattr(module.config, "max_position_embeddings", 0) or 2048)
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    return TorchModel(module, device, context), "float16" if is_packed(config) else dtype


def _refuse_pickles(directory: Path, base: Path) -> None:
    """The libraries would unpickle what has no safetensors; raises CheckpointError instead."""
    problems = []
    if not any(base.glob("*.safetensors")):
        problems.append(Problem(str(base), "no *.safetensors", "weights as safetensors"))
    for place in dict.fromkeys((directory, base)):
        adapter = place / "adapter_model.safetensors"
        if (place / "adapter_config.json").is_file() and not adapter.is_file():
            problems.append(Problem(str(adapter), "nothing", "factors as safetensors"))
    if problems:
        fix = "pickled weights are never unpickled; convert them to safetensors"
        raise CheckpointError("the checkpoint cannot be loaded", problems, fix)


def adapter_base(directory: Path) -> Path | None:
    """The base of a PEFT adapter directory, None for a whole model."""
    path = directory / "adapter_config.json"
    if not path.is_file() or (directory / "config.json").is_file():
        return None
    name = str(read_json_object(path).get("base_model_name_or_path"))
    for base in (directory / name, Path(name)):
        if (base / "config.json").is_file():
            return base
    problem = Problem(f"{path}: base_model_name_or_path", name, "a directory with config.json")
    raise CheckpointError("the base of the adapter is not there", [problem])


def is_packed(config: dict[str, Any]) -> bool:
    """Whether the checkpoint is one for gptqmodel."""
    settings = config.get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") in PACKED_METHODS


def _load(directory: Path, config: dict[str, Any], device: str) -> Any:
    if is_packed(config):
        return _load_packed(directory, device)
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - 3 s

    # float32 on a CPU: half precision is slow there, and less exact.
    dtype = torch.float32 if device == "cpu" else "auto"
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    return model.to(device).eval()


def _load_packed(directory: Path, device: str) -> Any:
    # Its kernel compiles itself on the first call, which takes minutes and gains nothing here.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    from gptqmodel import BACKEND, GPTQModel  # noqa: PLC0415 - 10 s

    # The one backend that takes every shape and group size; float16, or else scales are rounded.
    backend = BACKEND.GPTQ_TORCH if device == "cpu" else BACKEND.AUTO
    loaded = GPTQModel.load(
        str(directory),
        backend=backend,
        device=device,
        dtype=torch.float16,
        trust_remote_code=False,
    )
    return loaded.model.eval()


@contextmanager
def _stdout_is_for_results() -> Iterator[None]:
    """Banners of libraries go to stderr."""
    with redirect_stdout(sys.stderr):
        yield

"""Surroundings in which packages of others run: nothing of theirs reaches our output."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


@contextmanager
def surroundings(environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Standard output to nowhere, no warnings or bars; changed settings come back.

    gptqmodel prints a banner on import, which peft causes, too: it would spoil JSON on stdout.
    """
    wanted = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **(environment or {})}
    before = {name: os.environ.get(name) for name in wanted}
    deterministic = torch.are_deterministic_algorithms_enabled()
    gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()
    sys.stdout.flush()
    out, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.environ.update(wanted)
    os.dup2(nowhere, 1)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        sys.stdout.flush()
        os.dup2(out, 1)
        os.close(out)
        os.close(nowhere)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_grad_enabled(gradients)
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

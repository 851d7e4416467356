"""The block-wise forward pass and its gradients against transformers and torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.compress.toys import toy_model
from toolchain.compress.blocks import Head
from toolchain.compress.checkpoint import Source, block_name
from toolchain.compress.forward import Passes, gradients, losses_without, mean_loss
from toolchain.model.errors import CheckpointError, CompressionError
from toolchain.model.names import LINEAR_SUFFIXES

ROPES: list[dict[str, Any]] = [
    {},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
]


def tokens_of(source: Source, samples: int = 3, length: int = 12) -> Any:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, source.config.vocab_size, (samples, length), generator=generator)


def load_reference(directory: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_transformers(tmp_path: Path, rope: dict[str, Any], tied: bool) -> None:
    source = Source.open(toy_model(tmp_path / "m", tied=tied, dtype="bf16", **rope))
    tokens = tokens_of(source)
    passes = Passes.make(source, tokens, "cpu")
    states = passes.start()
    for block in range(source.config.num_layers):
        states = passes.through(states, block)
    ours = Head.load(source, "cpu").logits(states)
    with torch.no_grad():
        theirs = load_reference(source.directory)(tokens).logits
    assert torch.allclose(ours, theirs, atol=2e-5)


def test_losses_and_gradients_equal_transformers(tmp_path: Path) -> None:
    source = Source.open(toy_model(tmp_path / "m"))
    tokens, order = tokens_of(source), range(4)
    model = load_reference(source.directory)
    for sample in range(len(tokens)):
        row = tokens[sample : sample + 1]
        model.zero_grad()
        loss = model(row, labels=row).loss
        loss.backward()
        found = {p: g for p, _, g in gradients(source, row, "cpu", order)}
        for block in order:
            for suffix in LINEAR_SUFFIXES:
                theirs = model.get_parameter(block_name(block, suffix)).grad
                assert torch.allclose(found[block][suffix], theirs, atol=1e-6)
        assert mean_loss(source, row, "cpu", order) == pytest.approx(float(loss.detach()), rel=1e-6)


def test_losses_without_a_block(tmp_path: Path) -> None:
    source = Source.open(toy_model(tmp_path / "m"))
    tokens, order = tokens_of(source), [0, 1, 2, 3]
    expected = [mean_loss(source, tokens, "cpu", [b for b in order if b != gone]) for gone in order]
    assert losses_without(source, tokens, "cpu", order) == pytest.approx(expected, rel=1e-12)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    from tests.model.tiny import random_weights, tensor_shapes, write_weights

    directory = toy_model(tmp_path / "m")
    shapes = tensor_shapes(hidden=16, ffn=24, layers=4, q_rows=16, kv_rows=8, vocab=97, tied=True)
    weights = random_weights(shapes, 0)
    weights["model.norm.weight"] = np.full(16, 3e38, np.float32)
    write_weights(directory, weights)
    source = Source.open(directory)
    with pytest.raises(CompressionError, match="not finite"):
        mean_loss(source, tokens_of(source), "cpu", range(4))
    weights["model.norm.weight"][3] = np.nan
    write_weights(directory, weights)
    source = Source.open(directory)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        mean_loss(source, tokens_of(source), "cpu", range(4))

"""Independent referee: transformers runs the same int4 weights in float, edgec runs integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sim.generate import generate
from sim.session import Session
from tests.paths import SHARED, STORIES, needs_shared
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.lower import lower_model
from toolchain.model.names import hf_name_of
from toolchain.model.outline import SITES, LowerConfig
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig, QuantModel, quantize_model
from toolchain.model.tokenizer import load_tokenizer
from toolchain.options import bundled_model

WINDOW = 256
Floats = npt.NDArray[np.float64]


def float_logits(model_dir: Path, quant: QuantModel | None, windows: npt.NDArray[Any]) -> Floats:
    """Logits (windows, T, vocab) of transformers in float32, on the integer weights if given."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    if quant is not None:
        weights = {hf_name_of(op_id): t.dequantize() for op_id, t in quant.linears.items()}
        weights[hf_name_of("embed")] = quant.embed.dequantize()
        weights[hf_name_of("lm_head")] = quant.head.dequantize()
        tensors = {name: torch.tensor(w, dtype=torch.float32) for name, w in weights.items()}
        unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
        assert not unexpected
    with torch.no_grad():
        logits: Floats = model(torch.tensor(windows)).logits.double().numpy()
    return logits


def integer_logits(quant: QuantModel, mode: ActMode, windows: npt.NDArray[Any]) -> Floats:
    program = lower_model(quant, LowerConfig(windows.shape[1], dict.fromkeys(SITES, mode)))
    session = Session(program, program.constants)
    rows = []
    for window in windows:
        session.reset()
        rows.append(session.forward(window) / 65536.0)
    return np.stack(rows)


def perplexity(logits: Floats, windows: npt.NDArray[Any]) -> float:
    shifted = logits[:, :-1] - logits[:, :-1].max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, windows[:, 1:, None], -1)
    return float(np.exp(-chosen.mean()))


def windows_of(model_dir: Path, text: str, count: int) -> npt.NDArray[np.int64]:
    tokenizer = load_tokenizer(model_dir)
    tokens = tokenizer.encode(text)
    body = np.array(tokens[1 : 1 + count * (WINDOW - 1)], np.int64).reshape(count, WINDOW - 1)
    return np.pad(body, ((0, 0), (1, 0)), constant_values=tokens[0])


@pytest.fixture(scope="module")
def stories() -> FloatModel:
    return load_model(STORIES)


@pytest.fixture(scope="module")
def stories_windows() -> npt.NDArray[np.int64]:
    text = (SHARED / "data" / "text" / "tinystories" / "tinystories_val_sample.txt").read_text()
    return windows_of(STORIES, text[:20000], 8)


@needs_shared
@pytest.mark.parametrize(("mode", "percent"), [(ActMode.A16, 1.0), (ActMode.A8, 1.5)])
def test_integer_perplexity_is_that_of_the_same_weights_in_float(
    stories: FloatModel, stories_windows: npt.NDArray[np.int64], mode: ActMode, percent: float
) -> None:
    quant = quantize_model(stories, QuantConfig())
    reference = perplexity(float_logits(STORIES, quant, stories_windows), stories_windows)
    integer = perplexity(integer_logits(quant, mode, stories_windows), stories_windows)
    assert abs(integer / reference - 1) < percent / 100, (integer, reference)


@needs_shared
def test_eight_bit_weights_come_close_to_the_float_model(
    stories: FloatModel, stories_windows: npt.NDArray[np.int64]
) -> None:
    quant = quantize_model(stories, QuantConfig(bits=8, group_size=-1))
    reference = float_logits(STORIES, None, stories_windows)
    integer = integer_logits(quant, ActMode.A16, stories_windows)
    same = (reference.argmax(-1) == integer.argmax(-1)).mean()
    assert same > 0.97, same
    ratio = perplexity(integer, stories_windows) / perplexity(reference, stories_windows)
    assert abs(ratio - 1) < 0.01, ratio


@needs_shared
def test_greedy_text_begins_like_the_known_text(stories: FloatModel) -> None:
    """The float model's greedy continuation is known from llama2.c."""
    quant = quantize_model(stories, QuantConfig(bits=8, group_size=-1))
    program = lower_model(quant, LowerConfig(512))
    tokenizer = load_tokenizer(STORIES)
    prompt = tokenizer.encode("Once upon a time")
    text = tokenizer.decode(list(generate(Session(program, program.constants), prompt, 60)))
    assert text.startswith(
        ", there was a little girl named Lily. She loved to play outside in the park. One day,"
    ), text


def test_the_bundled_model_keeps_its_perplexity() -> None:
    """Integer arithmetic costs the bundled model less than 1 % on its held-out text."""
    directory = bundled_model()
    windows = windows_of(directory, (directory / "heldout.txt").read_text(), 4)
    quant = quantize_model(load_model(directory), QuantConfig())
    reference = perplexity(float_logits(directory, quant, windows), windows)
    integer = perplexity(integer_logits(quant, ActMode.A16, windows), windows)
    assert abs(integer / reference - 1) < 0.01, (integer, reference)

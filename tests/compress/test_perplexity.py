"""The perplexity after each stage is that of `edgec eval`, windows and all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.toys import text_file, toy_model
from toolchain.compress.perplexity import Evaluation, evaluate
from toolchain.compress.texts import TextCache, window_length
from toolchain.evaluate.perplexity import cut_windows, measure_perplexity, window_size
from toolchain.evaluate.subject import open_subject
from toolchain.model.errors import CompressionError, ConfigError


def no_progress(what: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize(("windows", "tokens"), [(3, 16), (100, 16), (100, None)])
def test_equals_the_evaluation(tmp_path: Path, windows: int, tokens: int | None) -> None:
    """With whole windows only, and with a rest at the end."""
    model, text = toy_model(tmp_path / "m", num_layers=2), "it was not the same as she said, " * 9
    asked = Evaluation(str(text_file(tmp_path, text)), windows, tokens)
    ours = evaluate(model, asked, "cpu", TextCache(), no_progress)
    subject = open_subject(model, "numpy")
    ids = subject.tokenizer.encode_text(text)
    size = window_size(tokens, subject.model.context)
    rows = cut_windows(ids, size, bos=subject.start, limit=windows)
    assert (len(rows[-1]) < size) == (windows == 100)
    assert ours == pytest.approx(measure_perplexity(subject.model, rows).value, rel=1e-5)


def test_texts_and_windows_that_cannot_be(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m", num_layers=1)
    empty = Evaluation(str(text_file(tmp_path, "")))
    with pytest.raises(CompressionError, match="too short for a perplexity"):
        evaluate(model, empty, "cpu", TextCache(), no_progress)
    for length in (1, 33):
        with pytest.raises(ConfigError, match=r"tokens per window: found .* 2\.\.32"):
            window_length(model, length)

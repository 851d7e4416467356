"""`edgec sensitivity`: from a checkpoint directory and a text to the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolchain.evaluate.data_files import read_text
from toolchain.evaluate.integer import model_of_quant
from toolchain.evaluate.perplexity import cut_windows, measure_perplexity, window_size
from toolchain.evaluate.sensitivity import measure_sensitivity
from toolchain.evaluate.sensitivity_report import to_report
from toolchain.model.checkpoint import load_model
from toolchain.model.lora import base_directory
from toolchain.model.quantize import quantize_model
from toolchain.model.tokenizer import load_tokenizer
from toolchain.options import BUNDLED_NAME, ModelOptions, bundled_model

SAMPLE = "heldout.txt"  # of the bundled model, public domain
SAMPLE_NAME = "the text that comes with edgec"


def run_sensitivity(
    model_dir: Path | None,
    options: ModelOptions,
    text: Path | None,
    cut: tuple[int | None, int],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The report (see `sensitivity_report.to_report`); `cut` is window and number of windows.

    `model_dir` None is the bundled model, `text` None the sample that comes with edgec.
    """
    directory = model_dir or bundled_model()
    model = load_model(directory)
    tokenizer = load_tokenizer(base_directory(directory))
    context = options.context or model.config.max_position_embeddings
    window = window_size(cut[0], context)
    ids = tokenizer.encode_text(read_text(text or bundled_model() / SAMPLE))
    windows = cut_windows(ids, window, bos=tokenizer.start, limit=cut[1])
    found = measure_sensitivity(model, options.quant, windows, progress)
    progress("the integer model")
    integers = model_of_quant(
        quantize_model(model, options.quant), tokenizer, context, options.modes
    )
    about = {
        "model": BUNDLED_NAME if model_dir is None else directory.resolve().name,
        "text": SAMPLE_NAME if text is None else text.name,
        "windows": len(windows),
        "window": max(len(row) for row in windows),
        "settings": asdict(options.quant),
    }
    return to_report(found, about, measure_perplexity(integers, windows).value)

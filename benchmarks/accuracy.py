"""Perplexity of the integer model beside the same weights in float and the original in float.

    python benchmarks/accuracy.py MODEL_DIR TEXT_FILE [--windows 8]

Windows of 256 tokens, the first a beginning-of-sequence token; exp of the mean negative
log-likelihood of tokens 2 .. 256. Float runs are transformers in float32 (needs the `[dev]` extra).
"""

from __future__ import annotations

from pathlib import Path

import click

from tests.test_accuracy import float_logits, integer_logits, perplexity, windows_of
from toolchain.model.checkpoint import load_model
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig, quantize_model

WEIGHTS = {
    "int8 per channel": QuantConfig(bits=8, group_size=-1),
    "int4 group 32": QuantConfig(),
    "int4 per channel": QuantConfig(group_size=-1),
    "int3 group 32": QuantConfig(bits=3),
}


@click.command()
@click.argument("model_dir", type=click.Path(path_type=Path, exists=True))
@click.argument("text_file", type=click.Path(path_type=Path, exists=True))
@click.option("--windows", default=8, show_default=True)
def main(model_dir: Path, text_file: Path, windows: int) -> None:
    """Print perplexities of MODEL_DIR on TEXT_FILE."""
    tokens = windows_of(model_dir, text_file.read_text()[: 8192 * windows], windows)
    original = perplexity(float_logits(model_dir, None, tokens), tokens)
    print(f"{model_dir.name}, {windows} windows of 256 tokens of {text_file.name}")
    print(f"original weights in float: {original:.3f}")
    model = load_model(model_dir)
    for name, config in WEIGHTS.items():
        quant = quantize_model(model, config)
        same = perplexity(float_logits(model_dir, quant, tokens), tokens)
        row = [f"{name:18} float {same:.3f}"]
        for mode in (ActMode.A16, ActMode.A8):
            integer = perplexity(integer_logits(quant, mode, tokens), tokens)
            row.append(f"{mode.value} {integer:.3f} ({100 * (integer / same - 1):+.2f} %)")
        print(", ".join(row))


if __name__ == "__main__":
    main()

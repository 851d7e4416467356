"""The model that comes with edgec: small, of the engine's grain, and with a tokenizer that fits."""

from __future__ import annotations

from toolchain.model.config import read_config
from toolchain.model.names import expected_shapes
from toolchain.model.tokenizer import load_tokenizer
from toolchain.options import bundled_model


def test_directory_stays_small() -> None:
    files = [path for path in bundled_model().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in files
    }


def test_matrices_have_the_grain_of_the_engine() -> None:
    """Inputs at or just below multiples of 252, outputs in multiples of 32."""
    for name, shape in expected_shapes(read_config(bundled_model())).items():
        if len(shape) == 2:
            assert shape[0] % 32 == 0, name
            assert -shape[1] % 252 <= 2 * 28, name


def test_held_out_text_survives_the_tokenizer() -> None:
    tokenizer = load_tokenizer(bundled_model())
    text = (bundled_model() / "heldout.txt").read_text()
    ids = tokenizer.encode(text)
    assert ids[0] == 0
    assert tokenizer.decode(ids) == text
    assert len(text) / len(ids) > 2.5  # characters per token

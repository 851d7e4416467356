"""Text for calibration and for held-out perplexity: files or built-in samples -> token windows.

Built in: `texts/austen.txt` (openings of six novels by Jane Austen, public domain, made from the
same plain texts as the bundled model's training data) for calibration, and the bundled model's
held-out chapters for perplexity.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import torch

from toolchain.compress.checkpoint import Tensor
from toolchain.compress.stage import CalibratedOptions
from toolchain.evaluate.perplexity import window_size, windows_of
from toolchain.model.config import read_config
from toolchain.model.errors import CompressionError, ConfigError, Problem
from toolchain.model.tokenizer import TOKENIZER_FILE, load_tokenizer
from toolchain.options import bundled_model

BUILTIN = "builtin"
HUB = "hub:"


def read_text(spec: str, builtin: Path, allow_hub: bool = False) -> str:
    """The text that `spec` names; raises ConfigError when there is none.

    A hub data set must have a `text` column in its split `train`.
    """
    if spec.startswith(HUB):
        return _hub_text(spec.removeprefix(HUB), allow_hub)
    path = builtin if spec == BUILTIN else Path(spec)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem("text", f"{spec} ({error})", "builtin, or a text file in UTF-8")
        raise ConfigError("the text cannot be read", [problem]) from error


def calibration_file() -> Path:
    """The built-in calibration text."""
    return Path(str(files("toolchain.compress") / "texts" / "austen.txt"))


def heldout_file() -> Path:
    """The built-in held-out text, which no built-in calibration text overlaps."""
    return bundled_model() / "heldout.txt"


def _hub_text(name: str, allow_hub: bool) -> str:
    if not allow_hub:
        problem = Problem("text", f"{HUB}{name}", "a local file; the hub only with --allow-hub")
        raise ConfigError("nothing is downloaded unless asked for", [problem])
    from datasets import load_dataset  # noqa: PLC0415 - only for those who ask for the hub

    rows = load_dataset(name, split="train", streaming=True)
    parts: list[str] = []
    size = 0
    for row in rows:
        parts.append(str(row["text"]))
        size += len(parts[-1])
        if size > 16 << 20:
            break
    return "\n".join(parts)


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True, eq=False)
class TextCache:
    """Token ids of calibration texts; tokenizers do not change from stage to stage."""

    allow_hub: bool = False
    home: Path | None = None  # the model as given
    _texts: dict[str, str] = field(default_factory=dict)
    _tokens: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def text(self, spec: str) -> str:
        """A calibration text by name."""
        if spec not in self._texts:
            self._texts[spec] = read_text(spec, calibration_file(), self.allow_hub)
        return self._texts[spec]

    def ids(self, model_dir: Path, text: str) -> list[int]:
        """Token ids of a text without a beginning-of-sequence token."""
        tokenizer = load_tokenizer(model_dir)
        tag = hashlib.sha256((model_dir / TOKENIZER_FILE).read_bytes()).hexdigest()
        key = (tag, digest(text))
        if key not in self._tokens:
            self._tokens[key] = tokenizer.encode_text(text)
        return self._tokens[key]

    def windows(self, model_dir: Path, options: CalibratedOptions, seed: int) -> Tensor:
        """(samples, sample_tokens) int64: different windows of the text, drawn by the seed.

        Each begins with the tokens that the tokenizer puts in front of a text. Raises
        CompressionError when the text has too few windows.
        """
        length = window_length(model_dir, options.sample_tokens)
        ids = self.ids(model_dir, self.text(options.calibration))
        cut = cut_windows(model_dir, ids, length)
        if len(cut) < options.samples:
            found = f"{len(ids)} tokens: {len(cut)} windows of {length}"
            fix = "give more text, or ask for fewer samples or sample_tokens"
            problem = Problem(options.calibration, found, f"{options.samples} windows", fix)
            raise CompressionError("there is too little calibration text", [problem])
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(cut), generator=generator)[: options.samples]
        return cut[chosen]


def window_length(model_dir: Path, asked: int | None) -> int:
    """Tokens per window: what is asked for, else 512; never more than the context."""
    context = read_config(model_dir).max_position_embeddings
    return window_size(asked, context, "tokens per window")


def cut_windows(model_dir: Path, ids: list[int], length: int) -> Tensor:
    """(count, length) int64: the whole windows of a text, each after its usual first token."""
    rows = windows_of(ids, length, load_tokenizer(model_dir).start)
    whole = [torch.from_numpy(row) for row in rows if len(row) == length]
    return torch.stack(whole) if whole else torch.empty((0, length), dtype=torch.int64)

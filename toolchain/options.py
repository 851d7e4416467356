"""Command line values -> frozen requests; every bad value is named at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from toolchain.model.errors import ConfigError, Problem
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode
from toolchain.model.quant_settings import Override, QuantConfig

BUNDLED_NAME = "the bundled model"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What `compile` and `fit` share."""

    target: str
    quant: QuantConfig
    context: int | None
    modes: Mapping[str, ActMode]


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """Arguments of `edgec compile`."""

    model_dir: Path | None
    output: Path
    prefix: str
    golden_steps: int | None
    model: ModelOptions


@dataclass(frozen=True, slots=True)
class SimulateRequest:
    """Arguments of `edgec simulate`."""

    build: Path
    prompt: str
    max_new_tokens: int
    temperature: float
    seed: int


def bundled_model() -> Path:
    """Directory of the model that comes with edgec."""
    return Path(str(files("toolchain.model") / "bundled"))


def parse_model_options(
    *,
    target: str,
    bits: int,
    group_size: int,
    embed_bits: int | None,
    head_bits: int | None,
    layers: tuple[str, ...],
    context: int | None,
    activations: str,
) -> ModelOptions:
    """Parsed options; raises ConfigError with every value that cannot be understood.

    `head_bits` follows `embed_bits`, as a tied head must. Ranges are checked where they are used.
    """
    problems: list[Problem] = []
    embed = 8 if embed_bits is None else embed_bits
    head = embed if head_bits is None else head_bits
    overrides = tuple(_parse_override(text, problems) for text in layers)
    modes = _parse_activations(activations, problems)
    if problems:
        raise ConfigError("some options cannot be used", problems)
    return ModelOptions(
        target, QuantConfig(bits, group_size, embed, head, overrides), context, modes
    )


def _parse_override(text: str, problems: list[Problem]) -> Override:
    pattern, _, value = text.partition("=")
    bits, colon, group = value.partition(":")
    try:
        override = Override(pattern, int(bits) if bits else None, int(group) if colon else None)
    except ValueError:
        override = Override(pattern)
    if not pattern or (override.bits is None and override.group_size is None):
        problems.append(
            Problem("--layer", repr(text), "PATTERN=BITS, PATTERN=BITS:GROUP or PATTERN=:GROUP")
        )
    return override


def _parse_activations(text: str, problems: list[Problem]) -> dict[str, ActMode]:
    known = {mode.value: mode for mode in ActMode}
    if text in known:
        return dict.fromkeys(SITES, known[text])
    modes: dict[str, ActMode] = {}
    for part in text.split(","):
        site, _, mode = part.partition("=")
        if site in SITES and mode in known and site not in modes:
            modes[site] = known[mode]
        else:
            allowed = f"a8, a16, or SITE=MODE with sites {', '.join(SITES)}, each once"
            problems.append(Problem("--activations", repr(part), allowed))
    return modes

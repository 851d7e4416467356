"""Command line values -> frozen requests; every bad value is named at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from memory_planner.engines import EngineChoice
from memory_planner.limits import MemoryLimits
from memory_planner.prompts import BATCHES, OPTION
from memory_planner.target import Pin, Reading
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.nm_pattern import PATTERN_NAMES, PATTERNS, Pattern, parse_pattern
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode, Arithmetic
from toolchain.model.quant_settings import Override, QuantConfig, SparseRule

BUNDLED_NAME = "the bundled model"
BLOCKS = "l*.*"  # the projections of all blocks
SIZE_SHIFTS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What `compile` and `fit` share."""

    target: str
    quant: QuantConfig
    context: int | None
    modes: Mapping[str, ActMode]
    limits: MemoryLimits
    engine: EngineChoice = EngineChoice.AUTO
    arithmetic: Arithmetic = Arithmetic.PRECISE
    batch: int | None = None  # tokens of a prompt that go together; None: what pays


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


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """Arguments of `edgec simulate --profile`."""

    build: Path
    context: int | None  # rows of KV cache, the token's own included; None: half of them
    reading: Reading


SPEECH = ("prompt", "max_new_tokens", "temperature", "seed")
PROFILE = ("context", "reading")


def parse_simulate_options(
    build: Path, values: Mapping[str, Any], given: Collection[str]
) -> SimulateRequest | ProfileRequest:
    """The request; `given` names what the command line sets. ConfigError for what has no effect."""
    idle = SPEECH if values["profile"] else PROFILE
    with_or_without = "without" if values["profile"] else "with"
    problems = [
        Problem(f"--{name.replace('_', '-')}", "given", f"only {with_or_without} --profile")
        for name in idle
        if name in given
    ]
    known = [reading.value for reading in Reading]
    if values["reading"] not in known:
        problems.append(Problem("--reading", repr(values["reading"]), " or ".join(known)))
    if not values["profile"] and values["prompt"] is None:
        problems.append(Problem("--prompt", "nothing", "text to continue, or --profile"))
    if problems:
        raise ConfigError("some options cannot be used", problems)
    if values["profile"]:
        return ProfileRequest(build, values["context"], Reading(values["reading"]))
    return SimulateRequest(build, **{name: values[name] for name in SPEECH})


def bundled_model() -> Path:
    """Directory of the model that comes with edgec."""
    return Path(str(files("toolchain.model") / "bundled"))


def parse_model_options(
    *,
    target: str,
    bits: tuple[str, ...],
    group_size: int,
    embed_bits: int | None,
    head_bits: int | None,
    layers: tuple[str, ...],
    context: int | None,
    activations: str,
    pin: tuple[str, ...] = (),
    region: tuple[str, ...] = (),
    l1: str | None = None,
    sparse: tuple[str, ...] = (),
    engine: str = "auto",
    arithmetic: str = "precise",
    prefill_batch: str = "auto",
) -> ModelOptions:
    """Parsed options; raises ConfigError with every value that cannot be understood.

    `head_bits` follows `embed_bits`, as a tied head must. `bits` are numbers, the last of which is
    that of the projections, and PATTERN=BITS, which `layers` come after. Ranges are checked where
    they are used.
    """
    problems: list[Problem] = []
    embed = 8 if embed_bits is None else embed_bits
    head = embed if head_bits is None else head_bits
    default, patterns = _parse_bits(bits, problems)
    overrides = (*patterns, *(_parse_override(text, problems) for text in layers))
    rules = tuple(_parse_sparse(text, problems) for text in sparse)
    modes = _parse_activations(activations, problems)
    limits = _parse_limits(pin, region if l1 is None else (*region, f"l1={l1}"), problems)
    batch = _parse_batch(prefill_batch, problems)
    if problems:
        raise ConfigError("some options cannot be used", problems)
    quant = QuantConfig(default, group_size, embed, head, overrides, rules)
    return ModelOptions(
        target, quant, context, modes, limits, EngineChoice(engine), Arithmetic(arithmetic), batch
    )


def parse_region_sizes(regions: tuple[str, ...]) -> MemoryLimits:
    """What `--region` says, alone; raises ConfigError with every text that is none."""
    problems: list[Problem] = []
    limits = _parse_limits((), regions, problems)
    if problems:
        raise ConfigError("some options cannot be used", problems)
    return limits


def _parse_limits(
    pins: tuple[str, ...], regions: tuple[str, ...], problems: list[Problem]
) -> MemoryLimits:
    parsed, sizes = [], {}
    for text in pins:
        pattern, _, name = text.partition("=")
        parsed.append(Pin(pattern, name))
        if not pattern or not name:
            allowed = "PATTERN=REGION, like 'kv.*=l2'"
            problems.append(Problem("--pin", repr(text), allowed))
    for text in regions:
        name, _, size = text.partition("=")
        match = re.fullmatch(r"(\d{1,12})(B|KiB|MiB|GiB)?", size)
        if not name or match is None or name in sizes:
            allowed = "NAME=SIZE, each region once, with a size like 65536, 64KiB or 1MiB"
            problems.append(Problem("--region", repr(text), allowed))
        else:
            sizes[name] = int(match[1]) << SIZE_SHIFTS[match[2] or "B"]
    return MemoryLimits(sizes, tuple(parsed))


def _parse_batch(text: str, problems: list[Problem]) -> int | None:
    """None for what pays."""
    if text in ("auto", *map(str, BATCHES)):
        return None if text == "auto" else int(text)
    problems.append(Problem(OPTION, repr(text), f"auto, {', '.join(map(str, BATCHES))}"))
    return None


def _parse_bits(
    texts: tuple[str, ...], problems: list[Problem]
) -> tuple[int, tuple[Override, ...]]:
    """Bits of the projections, and of the op ids that match a pattern."""
    default, overrides = 4, []
    for text in texts:
        pattern, equals, value = text.rpartition("=")
        if not re.fullmatch(r"[+-]?\d{1,9}", value) or (equals and not pattern):
            problems.append(Problem("--bits", repr(text), "BITS or PATTERN=BITS, like 'l00.*=3'"))
        elif equals:
            overrides.append(Override(pattern, int(value)))
        else:
            default = int(value)
    return default, tuple(overrides)


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


def _parse_sparse(text: str, problems: list[Problem]) -> SparseRule:
    """PATTERN=RULE or RULE alone: N:M of the projections of all blocks, the others of all."""
    match, equals, choice = text.rpartition("=")
    patterns: tuple[Pattern, ...]
    named = choice in ("auto", "found", "off")
    if named:
        patterns, everywhere = () if choice == "off" else PATTERNS, "*"
    else:
        pattern = parse_pattern(choice)
        patterns, everywhere = (pattern,) if pattern else (), BLOCKS
        if pattern is None:
            allowed = f"auto, found, off or N:M ({PATTERN_NAMES}), or PATTERN= one of these"
            problems.append(Problem("--sparse", repr(text), allowed))
    return SparseRule(match if equals else everywhere, patterns, not named, choice == "found")


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

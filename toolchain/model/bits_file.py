"""edgec_bits.toml in a checkpoint directory: the bits of every matrix, as allocate-bits chose them.

    group_size = 32
    embed_bits = 8
    head_bits = 8

    [bits]
    "l00.attn.q_proj" = 4

`compile` and `fit` take these settings for a directory that holds the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from toolchain.model.errors import CheckpointError, ConfigError, Problem
from toolchain.model.quant_settings import Override, QuantConfig

BITS_FILE = "edgec_bits.toml"
COMMON = ("group_size", "embed_bits", "head_bits")


@dataclass(frozen=True, slots=True)
class AllocatedBits:
    """Settings of a checkpoint; `bits` by op id of each projection."""

    group_size: int
    embed_bits: int
    head_bits: int
    bits: Mapping[str, int]

    def quant(self) -> QuantConfig:
        """The same as quantization settings."""
        overrides = tuple(Override(op_id, bits) for op_id, bits in self.bits.items())
        return QuantConfig(
            group_size=self.group_size,
            embed_bits=self.embed_bits,
            head_bits=self.head_bits,
            overrides=overrides,
        )


def write_bits(directory: Path, allocated: AllocatedBits) -> None:
    """Write the file; the same settings give the same bytes."""
    lines = [f"{name} = {getattr(allocated, name)}" for name in COMMON]
    entries = [f'"{op_id}" = {bits}' for op_id, bits in allocated.bits.items()]
    text = "\n".join([*lines, "", "[bits]", *entries]) + "\n"
    (directory / BITS_FILE).write_text(text, encoding="utf-8")


def write_outer_bits(source: Path, out: Path) -> None:
    """For codes made of the checkpoint `source`: its settings of embedding and head, if it has any.

    The codes themselves say the bits of the projections.
    """
    allocated = read_bits(source)
    if allocated is not None:
        write_bits(out, replace(allocated, bits={}))


def read_bits(directory: Path) -> AllocatedBits | None:
    """The settings of a directory, None without the file; raises CheckpointError if it is broken.

    Whether the op ids exist and the bits are possible is checked where they are used.
    """
    path = directory / BITS_FILE
    if not path.is_file():
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problem = Problem(str(path), f"an unreadable file ({error})", "a TOML file")
        raise CheckpointError("the bits of a checkpoint cannot be read", [problem]) from error
    problems = [
        Problem(f"{path.name}: {name}", repr(values.get(name)), "an integer")
        for name in COMMON
        if not _integer(values.get(name))
    ]
    bits: Any = values.get("bits")
    if not isinstance(bits, dict) or not all(map(_integer, bits.values())):
        problems.append(Problem(f"{path.name}: [bits]", repr(bits), "op id to an integer"))
    for name in sorted(values.keys() - {*COMMON, "bits"}):
        problems.append(Problem(f"{path.name}: {name}", "an unknown key", ", ".join(COMMON)))
    if problems:
        raise CheckpointError("the bits of a checkpoint are broken", problems)
    group_size, embed_bits, head_bits = (values[name] for name in COMMON)
    return AllocatedBits(group_size, embed_bits, head_bits, bits)


def apply_bits(directory: Path | None, quant: QuantConfig, given: Collection[str]) -> QuantConfig:
    """`quant` with the settings of the directory's file, where it has one.

    `given` names the options that the user set (bits, group_size, embed_bits, head_bits, layers);
    raises ConfigError when one of them contradicts the file.
    """
    allocated = None if directory is None else read_bits(directory)
    if allocated is None:
        return quant
    problems = []
    for name in COMMON:
        asked, found = getattr(quant, name), getattr(allocated, name)
        follows = name == "head_bits" and "embed_bits" in given  # the option's own default
        if (name in given or follows) and asked != found:
            problems.append(Problem(_flag(name), str(asked), f"{found}, as {BITS_FILE} says"))
    if "bits" in given:
        others = sorted({bits for bits in allocated.bits.values() if bits != quant.bits})
        if others:
            allowed = f"also {', '.join(map(str, others))}, as {BITS_FILE} says"
            problems.append(Problem("--bits", str(quant.bits), allowed))
    for rule in quant.overrides:
        problems += _clashes(rule, allocated)
    if problems:
        fix = f"leave these options out, or delete {BITS_FILE} to choose the bits yourself"
        raise ConfigError(f"the options contradict {BITS_FILE} of the checkpoint", problems, fix)
    own = allocated.quant()
    return replace(
        quant,
        **{name: getattr(own, name) for name in ("bits", *COMMON)},
        overrides=(*own.overrides, *quant.overrides),
    )


def _clashes(rule: Override, allocated: AllocatedBits) -> list[Problem]:
    """What a --layer option says against the file."""
    for op_id, bits in allocated.bits.items():
        if fnmatchcase(op_id, rule.pattern):
            size = allocated.group_size
            if rule.bits not in (None, bits) or rule.group_size not in (None, size):
                found = f"bits {rule.bits}, group size {rule.group_size}"
                allowed = f"{bits} and {size} for {op_id}"
                return [Problem(f"--layer {rule.pattern}", found, allowed)]
    return []


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

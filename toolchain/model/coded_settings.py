"""Settings that the codes of a checkpoint fix: bits and group size of each coded matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from toolchain.model.checkpoint import INDEX_FILE, SINGLE_FILE, FloatModel, load_model
from toolchain.model.config import read_config
from toolchain.model.errors import ConfigError, InternalError, Problem
from toolchain.model.gptq_settings import GptqSettings, read_settings
from toolchain.model.json_fields import ProblemLog
from toolchain.model.names import hf_name_of, linear_ids, op_id_of
from toolchain.model.quant_settings import Override, QuantConfig, TensorSetting

WHAT = "the options contradict the codes of the checkpoint"
FIX = "leave these options out, or compile the float checkpoint"


def code_settings(model: FloatModel) -> Mapping[str, TensorSetting]:
    """Setting by op id of the coded matrices; group size -1 is one group.

    Bits are those of code - zero: with zero points off the middle of the codes, more than a code's.
    """
    found = {}
    for name, ref in model.codes.items():
        bits = ref.stored_bits()
        if bits is None:
            raise InternalError(f"{name} passed the checks with codes beyond 8 bits")
        found[op_id_of(name)] = TensorSetting(bits, -1 if ref.groups == 1 else ref.group_size)
    return found


def with_codes(model: FloatModel, quant: QuantConfig) -> QuantConfig:
    """`quant` with the settings of the codes; the same when they are in it already.

    Raises ConfigError for overrides that ask for others.
    """
    return _with_settings(code_settings(model), quant)


def _with_settings(settings: Mapping[str, TensorSetting], quant: QuantConfig) -> QuantConfig:
    if not settings:
        return quant
    own = tuple(Override(op_id, s.bits, s.group_size) for op_id, s in settings.items())
    problems = []
    for rule in quant.overrides:
        clash = next((s for o, s in settings.items() if _contradicts(rule, o, s)), None)
        if clash is not None:
            found = f"bits {rule.bits}, group size {rule.group_size}"
            allowed = f"{clash.bits} and {clash.group_size}, as the codes have"
            problems.append(Problem(f"--layer {rule.pattern}", found, allowed))
    if problems:
        raise ConfigError(WHAT, problems, FIX)
    theirs = tuple(rule for rule in quant.overrides if rule not in own)
    return replace(quant, overrides=(*own, *theirs))


def apply_codes(path: Path | None, quant: QuantConfig, given: Collection[str]) -> QuantConfig:
    """`quant` with the settings of the codes in a directory; the same for any other path.

    Without weights beside config.json its quantization_config counts. `given` names the options
    that the user set (bits, group_size): ConfigError for one that contradicts the codes, and what
    reading the checkpoint raises.
    """
    if path is None or not (path / "config.json").is_file():
        return quant
    log = ProblemLog()
    settings = read_settings(path, log)
    if settings is None and not log.unsupported:
        return quant
    if not _has_weights(path):
        return _with_settings(_nominal(path, settings), quant)
    model = load_model(path)
    found = code_settings(model)
    problems = []
    for option, values in (
        ("bits", {ref.bits for ref in model.codes.values()}),
        ("group_size", {setting.group_size for setting in found.values()}),
    ):
        asked = getattr(quant, option)
        if option in given and values - {asked}:
            allowed = f"{', '.join(map(str, sorted(values)))}, as the codes have"
            problems.append(Problem(f"--{option.replace('_', '-')}", str(asked), allowed))
    if problems:
        raise ConfigError(WHAT, problems, FIX)
    return _with_settings(found, quant)


def has_codes(path: Path) -> bool:
    """Whether a directory holds weights, and settings that say how they are coded."""
    if not (path / "config.json").is_file() or not _has_weights(path):
        return False
    log = ProblemLog()
    return read_settings(path, log) is not None or bool(log.unsupported)


def _has_weights(path: Path) -> bool:
    return any((path / file).is_file() for file in (SINGLE_FILE, INDEX_FILE))


def _nominal(path: Path, settings: GptqSettings | None) -> dict[str, TensorSetting]:
    """What quantize_config.json says of the projections of blocks."""
    found = {}
    for op_id in linear_ids(read_config(path)) if settings else ():
        setting = settings.of(hf_name_of(op_id).removesuffix(".weight")) if settings else None
        if setting is not None:
            found[op_id] = TensorSetting(*setting)
    return found


def _contradicts(rule: Override, op_id: str, setting: TensorSetting) -> bool:
    if not fnmatchcase(op_id, rule.pattern):
        return False
    return rule.bits not in (None, setting.bits) or rule.group_size not in (
        None,
        setting.group_size,
    )

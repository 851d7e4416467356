"""Settings that the codes of a checkpoint fix: bits and group size of each coded matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from toolchain.model.checkpoint import FloatModel
from toolchain.model.errors import ConfigError, InternalError, Problem
from toolchain.model.names import op_id_of
from toolchain.model.quant_settings import Override, QuantConfig, TensorSetting


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
    settings = code_settings(model)
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
        fix = "leave these options out, or compile the float checkpoint"
        raise ConfigError("the options contradict the codes of the checkpoint", problems, fix)
    theirs = tuple(rule for rule in quant.overrides if rule not in own)
    return replace(quant, overrides=(*own, *theirs))


def _contradicts(rule: Override, op_id: str, setting: TensorSetting) -> bool:
    if not fnmatchcase(op_id, rule.pattern):
        return False
    return rule.bits not in (None, setting.bits) or rule.group_size not in (
        None,
        setting.group_size,
    )

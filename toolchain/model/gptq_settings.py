"""quantize_config.json, or `quantization_config` of config.json -> GptqSettings.

Formats `gptq` (AutoGPTQ, also called v1) and `gptq_v2` (GPTQModel) are read; `dynamic` gives
modules other bits and groups, or leaves them out, as GPTQModel defines it. Of AWQ the layout
`gemm` (AutoAWQ) is read, the one that its checkpoints have; `modules_to_not_convert` are floats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from toolchain.model.foreign_formats import kind_of, quantized_modules, refusal
from toolchain.model.json_fields import FieldReader, ProblemLog, read_json_object, show

SETTINGS_FILE = "quantize_config.json"
CONFIG_KEY = "quantization_config"
BITS = (2, 3, 4, 8)
V1, V2, AWQ = "gptq", "gptq_v2", "awq"
AWQ_BITS = 4
MAX_GROUP = 1 << 18


@dataclass(frozen=True, slots=True)
class DynamicRule:
    """What `dynamic` says of the modules that match; `excluded` ones are not quantized."""

    pattern: str  # regular expression, matched at the start of the module's name
    excluded: bool
    bits: int | None = None
    group_size: int | None = None


@dataclass(frozen=True, slots=True)
class GptqSettings:
    """How the matrices of a coded checkpoint are stored; group size -1 is one group."""

    bits: int
    group_size: int
    version: str  # V1, V2 or AWQ
    dynamic: tuple[DynamicRule, ...] = ()

    def of(self, module: str) -> tuple[int, int] | None:
        """(bits, group size) of a module; None when it is left out. The first match counts."""
        for rule in self.dynamic:
            if re.match(rule.pattern, module):
                if rule.excluded:
                    return None
                bits = self.bits if rule.bits is None else rule.bits
                return bits, self.group_size if rule.group_size is None else rule.group_size
        return self.bits, self.group_size


def read_settings(model_dir: Path, log: ProblemLog) -> GptqSettings | None:
    """The settings of a directory, None for float weights; what cannot be read goes to `log`."""
    values = {}
    config = read_json_object(model_dir / "config.json").get(CONFIG_KEY)
    if config is not None:
        values[f"{CONFIG_KEY} in config.json"] = config
    if (model_dir / SETTINGS_FILE).exists():
        own = read_json_object(model_dir / SETTINGS_FILE)
        # AutoGPTQ's file did not name the method.
        values[SETTINGS_FILE] = own if "method" in own else {"quant_method": "gptq"} | own
    modules = quantized_modules(model_dir) if values else ()
    found = [parse_settings(value, where, log, modules) for where, value in values.items()]
    if len(found) == 2 and None not in found and found[0] != found[1]:
        where = f"{SETTINGS_FILE} and {CONFIG_KEY}"
        log.add_broken(where, "different settings", "the same, or only one of them")
    return found[0] if found else None


def parse_settings(
    value: object, where: str, log: ProblemLog, modules: Sequence[str] = ()
) -> GptqSettings | None:
    """Settings from JSON; None, with the reason in `log`, for what is not GPTQ or cannot be read.

    `modules` are named as those stored in a format that is refused.
    """
    if not isinstance(value, dict):
        log.add_broken(where, show(value), "an object")
        return None
    values = cast("dict[str, object]", value)
    kind = kind_of(values)
    if kind == "gptq":
        kind = str(values.get("checkpoint_format", values.get("format", V1))).lower()
    if values.get("is_marlin_format"):
        kind = "marlin"
    if kind == AWQ and str(values.get("version", "gemm")).lower() == "gemm":
        fields = FieldReader(values, f"{where}: ", log)
        bits = _bits(fields)
        if fields.good("bits") and bits != AWQ_BITS:
            fields.unsupported("bits", bits, f"{AWQ_BITS} in format awq")
        return GptqSettings(bits, _group_size(fields), AWQ, _left_out(fields))
    if kind not in (V1, V2):
        log.unsupported.append(refusal(where, kind, modules))
        return None
    fields = FieldReader(values, f"{where}: ", log)
    if str(values.get("pack_dtype", "int32")).removeprefix("torch.") != "int32":
        fields.unsupported("pack_dtype", values["pack_dtype"], '"int32"')
    return GptqSettings(_bits(fields), _group_size(fields), kind, _dynamic(fields, log))


def _bits(fields: FieldReader) -> int:
    bits = fields.integer("bits", 2, 8)
    if fields.good("bits") and bits not in BITS:
        fields.unsupported("bits", bits, f"one of {', '.join(map(str, BITS))}")
    return bits


def _group_size(fields: FieldReader) -> int:
    size = fields.integer("group_size", -1, MAX_GROUP)
    if size == 0:
        fields.broken("group_size", 0, "-1 (one group), or at least 1")
    return size


def _left_out(fields: FieldReader) -> tuple[DynamicRule, ...]:
    """Modules whose names contain one of `modules_to_not_convert`."""
    value = fields.raw("modules_to_not_convert")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        fields.broken("modules_to_not_convert", value, "a list of names")
        return ()
    return tuple(DynamicRule(f".*{re.escape(name)}", True) for name in value)


def _dynamic(fields: FieldReader, log: ProblemLog) -> tuple[DynamicRule, ...]:
    value = fields.raw("dynamic")
    if value is None:
        return ()
    if not isinstance(value, dict):
        fields.broken("dynamic", value, "an object")
        return ()
    rules = []
    for key, change in cast("dict[str, object]", value).items():
        changes = FieldReader(
            cast("dict[str, object]", change) if isinstance(change, dict) else {},
            f"dynamic {show(key)}: ",
            log,
        )
        pattern = key.removeprefix("+:").removeprefix("-:")
        try:
            re.compile(pattern)
        except re.error as error:
            changes.broken("", key, f"a regular expression ({error})")
            continue
        rules.append(
            DynamicRule(
                pattern,
                key.startswith("-:"),
                _bits(changes) if changes.is_set("bits") else None,
                _group_size(changes) if changes.is_set("group_size") else None,
            )
        )
    return tuple(rules)

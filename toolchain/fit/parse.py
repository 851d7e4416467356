"""The values of `edgec fit` options -> FitOptions; what is wrong or without effect is refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.fit.design import WhatIf
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.nm_pattern import PATTERN_NAMES, Pattern, parse_pattern

SUGGEST_TAKES = frozenset(
    {
        "model",
        "target",
        "bits",
        "group_size",
        "region",
        "l1",
        "embed_bits",
        "head_bits",
        "context",
        "vocab",
        "params",
    }
)
SWEEP_REFUSES = frozenset({"layer_order", "attn_width", "mlp_width", "activations"})
SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Parsed values; `given` names the parameters that the command line sets."""

    what_if: WhatIf
    action: str  # report, shapes, suggest or table
    params: int | None
    as_csv: bool
    given: frozenset[str]


def parse_fit_options(values: Mapping[str, Any], given: Collection[str]) -> FitOptions:
    """Parsed options; raises ConfigError with every value that cannot be used or has no effect."""
    problems: list[Problem] = []
    action = _action(values, given, problems)
    width = _pattern("--width", values["width"], problems)
    attn = _pattern("--attn-width", values["attn_width"], problems)
    mlp = _pattern("--mlp-width", values["mlp_width"], problems)
    if width and attn and mlp:
        _add(problems, "--width", str(width), "one of --attn-width and --mlp-width beside it")
    what_if = WhatIf(
        depth=values["depth"],
        attn_width=attn or width,
        mlp_width=mlp or width,
        vocab=values["vocab"],
        kv_bits=values["kv_bits"],
        eora_rank=values["eora_rank"],
        layer_order=_order(values["layer_order"], problems),
    )
    params = _count(values["params"], problems)
    if problems:
        raise ConfigError("some options cannot be used", problems)
    return FitOptions(what_if, action, params, values["as_csv"], frozenset(given))


def _action(values: Mapping[str, Any], given: Collection[str], problems: list[Problem]) -> str:
    """What to do; options that would have no effect on it are problems."""
    flags = {"list_shapes": "shapes", "suggest": "suggest", "table": "table"}
    chosen = [action for flag, action in flags.items() if values[flag]]
    if len(chosen) > 1:
        _add(problems, "report", " and ".join(chosen), "one of --list-shapes, --suggest, --table")
    action = chosen[0] if chosen else "report"
    outputs = {"as_json", "as_csv", *flags}
    idle: dict[str, set[str]] = {
        "report": {"params", "as_csv"},
        "shapes": set(given) - {"as_json", "list_shapes"},
        "suggest": set(given) - SUGGEST_TAKES - outputs,
        "table": {"params", "html"} | SWEEP_REFUSES,
    }
    for name in sorted(idle[action] & set(given)):
        allowed = "with --suggest" if name == "params" else "with --suggest or --table"
        if name not in ("params", "as_csv") or action == "shapes":
            allowed = f"no such option with {_spelling(_flag_of(action))}"
        _add(problems, _spelling(name), "given", allowed)
    if values["as_csv"] and "as_json" in given:
        _add(problems, "--csv", "--csv and --json", "one of them")
    return action


def _flag_of(action: str) -> str:
    return "list_shapes" if action == "shapes" else action


def _spelling(name: str) -> str:
    """A parameter as it is typed."""
    special = {"model": "MODEL", "as_csv": "--csv", "as_json": "--json", "layers": "--layer"}
    return special.get(name, "--" + name.replace("_", "-"))


def _pattern(option: str, text: str | None, problems: list[Problem]) -> Pattern | None:
    if text is None:
        return None
    pattern = parse_pattern(text)
    if pattern is None:
        allowed = f"N:M, N of every M inputs are removed; one of {PATTERN_NAMES}"
        _add(problems, option, repr(text), allowed)
    return pattern


def _order(text: str | None, problems: list[Problem]) -> tuple[int, ...] | None:
    if text is None:
        return None
    if re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        return tuple(int(part) for part in text.split(","))
    _add(problems, "--layer-order", repr(text), "numbers of blocks with commas, like 0,1,2,2,3")
    return None


def _count(text: str | None, problems: list[Problem]) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([KMGB]?)", text.upper())
    value = round(float(match[1]) * SCALES[match[2]]) if match else 0
    if value < 1:
        _add(problems, "--params", repr(text), "a number of parameters, like 250K, 4M or 1.5M")
        return None
    return value


def _add(problems: list[Problem], where: str, found: str, allowed: str) -> None:
    problems.append(Problem(where, found, allowed))

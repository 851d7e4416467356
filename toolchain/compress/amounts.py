"""How much of each projection a width stage removes: N:M patterns and rates by op id.

Where the options overlap the last one counts: pattern or sparsity for all, the gradient over depth,
then the entries of `amounts` in their order, each for the op ids that it matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from toolchain.model.config import ModelConfig
from toolchain.model.errors import Problem
from toolchain.model.names import expected_shapes, hf_name_of, linear_ids
from toolchain.model.nm_pattern import Pattern

LARGEST_GROUP = 64  # M of a mask; what can be packed is fewer (toolchain/model/nm_pattern.py)
Amount = Pattern | float  # N of every M inputs, or a share of the weights
FORM = f"N:M with 1 <= N < M <= {LARGEST_GROUP} (N of every M removed), or a rate 0 <= r < 1"


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of a width stage that say how much goes."""

    pattern: str | None
    sparsity: float | None
    depth_gradient: tuple[float, ...] | None
    amounts: Mapping[str, str | float]


def parse_amount(value: str | float) -> Amount | None:
    """A pattern, a rate, or None for what is neither."""
    if isinstance(value, float):
        return value if 0 <= value < 1 else None
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", value)
    if match and 1 <= int(match[1]) < int(match[2]) <= LARGEST_GROUP:
        return Pattern(int(match[1]), int(match[2]))
    return None


def wish_problems(wish: Wish) -> Iterator[Problem]:
    """What is wrong with the values, whatever the model."""
    general = {
        "pattern": wish.pattern,
        "sparsity": wish.sparsity,
        "depth_gradient": wish.depth_gradient,
    }
    given = [name for name, value in general.items() if value is not None]
    if len(given) > 1:
        yield Problem(" and ".join(given), "given together", "one of them")
    if not given and not wish.amounts:
        yield Problem("amount", "none", "pattern, sparsity, depth_gradient or amounts")
    if wish.pattern is not None and parse_amount(wish.pattern) is None:
        yield Problem("pattern", repr(wish.pattern), FORM)
    if wish.depth_gradient is not None and len(wish.depth_gradient) != 2:
        allowed = "two rates, of the first and of the last block"
        yield Problem("depth_gradient", str(list(wish.depth_gradient)), allowed)
    for name, value in wish.amounts.items():
        if parse_amount(value) is None:
            yield Problem(f"amounts.{name}", repr(value), FORM)


def amounts_of(wish: Wish, config: ModelConfig) -> dict[str, Amount]:
    """Op id to amount of every projection that loses something, in order of execution."""
    found: dict[str, Amount] = {}
    for op_id in linear_ids(config):
        amount = _general(wish, int(op_id[1 : op_id.index(".")]), config.num_layers)
        for pattern, value in wish.amounts.items():
            if fnmatchcase(op_id, pattern):
                amount = parse_amount(value)
        if amount:
            found[op_id] = amount
    return found


def _general(wish: Wish, block: int, blocks: int) -> Amount | None:
    if wish.depth_gradient is not None:
        first, last = wish.depth_gradient
        return first + (last - first) * block / max(blocks - 1, 1)
    return parse_amount(wish.pattern) if wish.pattern is not None else wish.sparsity


def wish_misfits(wish: Wish, config: ModelConfig) -> Iterator[Problem]:
    """What cannot be done to a model of this shape."""
    ids = linear_ids(config)
    for pattern in wish.amounts:
        if not any(fnmatchcase(op_id, pattern) for op_id in ids):
            allowed = f"a pattern of op ids {ids[0]} to {ids[-1]}"
            yield Problem(f"amounts.{pattern}", "matches nothing", allowed)
    shapes = expected_shapes(config)
    seen = set()
    for op_id, amount in amounts_of(wish, config).items():
        columns, role = shapes[hf_name_of(op_id)][1], op_id.split(".", 1)[1]
        if isinstance(amount, Pattern) and amount.group > columns and (role, amount) not in seen:
            seen.add((role, amount))
            yield Problem(f"pattern of {role}", str(amount), f"M of at most {columns} inputs")

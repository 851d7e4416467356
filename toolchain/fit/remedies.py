"""What would make a design fit: changes, each planned in full before it is proposed.

First every single change, as mild as it can be: the largest context, vocabulary, FFN width or
number of blocks, the most bits, the smallest group. Where none fits, or only such as leave little
of the model, the smallest combination: of two changes, then of three, then of more. The mildest
value is searched with a necessary condition of sizes, then with drafts of the plan; both take for
granted that need falls with every step of a change. Work is bounded in drafts, never in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from memory_planner.planner import has_room, is_plannable
from memory_planner.target import TargetSpec
from toolchain.fit.design import Design, build_program, check_design
from toolchain.fit.knobs import Knob, knobs_of
from toolchain.fit.planning import may_fit
from toolchain.model.errors import ConfigError
from toolchain.model.program import Kind, Program

SMALL = 3  # changes; larger combinations only when there is nothing else
LITTLE = 4  # a number below a fourth of what it was leaves little of the model
SHARES = 8  # steps of the numbers in a combination
SHOWN_COMBINATIONS = 1
COMBINATION_DRAFTS = 5  # a combination is not begun when so many drafts were made

Variant = Callable[[int], Design]


@dataclass(frozen=True, slots=True)
class Change:
    """One knob and its new value."""

    knob: Knob
    value: int
    most: bool  # no larger number fits

    @property
    def leaves_little(self) -> bool:
        """Whether a number becomes less than a fourth."""
        return self.knob.is_number and LITTLE * self.value < self.knob.now


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes with which the design fits."""

    changes: tuple[Change, ...]
    before: Design
    design: Design  # the changed design

    @property
    def option(self) -> str:
        """Of `edgec fit`; empty when the model's config.json must change."""
        options = [c.knob.option(self.before, c.value) for c in self.changes]
        return " ".join(options) if all(options) else ""

    @property
    def text(self) -> str:
        """The changes as people say them."""
        texts = [c.knob.text(c.value, "at most " * c.most) for c in self.changes]
        return " and ".join([", ".join(texts[:-1]), texts[-1]] if texts[:-1] else texts)

    def to_dict(self) -> dict[str, object]:
        """As JSON values; `value` and `now` are those of a single change."""
        one = self.changes[0] if len(self.changes) == 1 else None
        return {
            "change": " + ".join(change.knob.change for change in self.changes),
            "value": one.value if one else None,
            "now": one.knob.now if one else None,
            "option": self.option,
            "text": self.text,
            "changes": [
                {
                    "change": change.knob.change,
                    "value": change.value,
                    "now": change.knob.now,
                    "option": change.knob.option(self.before, change.value),
                }
                for change in self.changes
            ],
        }


@dataclass(frozen=True, slots=True)
class _Draft:
    """A design for which there is room."""

    design: Design
    program: Program


def find_remedies(design: Design, target: TargetSpec) -> list[Remedy]:
    """All single changes that there are, those that are known to cost much last.

    Combinations follow when no single change leaves at least a fourth of what it changes.
    """
    probe = _Probe(target)
    knobs = knobs_of(design)
    singles = [r for knob in knobs if (r := _single(probe, design, knob)) is not None]
    singles.sort(key=lambda remedy: any(c.knob.is_dear(c.value) for c in remedy.changes))
    if not all(remedy.changes[0].leaves_little for remedy in singles):
        return singles
    limits = {remedy.changes[0].knob.change: remedy.changes[0].value for remedy in singles}
    usable = [knob for knob in knobs if knob.least is None or knob.least < knob.now]
    needed = _needed(probe, design, usable)
    if needed is None:
        return singles
    last = probe.drafts + COMBINATION_DRAFTS
    for size in range(max(2, len(needed)), len(usable) + 1):
        chosen = [s for s in combinations(usable, size) if needed <= {k.change for k in s}]
        if size > SMALL:  # many, of which few help: those first that leave least on the chip
            chosen.sort(key=lambda knobs: _block_size(_drastic(design, knobs)))
        made = _combinations(probe, design, chosen, last)
        found = list(islice((r for r in made if _is_milder(r, limits)), SHOWN_COMBINATIONS))
        if found or (singles and size >= SMALL):
            return [*singles, *found]
    return singles


def _combinations(
    probe: _Probe, design: Design, sets: Iterable[tuple[Knob, ...]], last: int
) -> Iterator[Remedy]:
    """Remedies of these sets of knobs, until `last` drafts were made."""
    for knobs in sets:
        remedy = _combined(probe, design, knobs) if probe.drafts < last else None
        if remedy:
            yield remedy


def _is_milder(remedy: Remedy, limits: Mapping[str, int]) -> bool:
    """Whether a combination changes each number less than a single change must."""
    return all(change.value > limits.get(change.knob.change, 0) for change in remedy.changes)


def _needed(probe: _Probe, design: Design, knobs: Sequence[Knob]) -> set[str] | None:
    """Changes without which all others together cannot help; None when all of them cannot."""
    if not probe.may_fit(_drastic(design, knobs)):
        return None
    rest = {knob.change: [k for k in knobs if k is not knob] for knob in knobs}
    return {change for change in rest if not probe.may_fit(_drastic(design, rest[change]))}


def _drastic(design: Design, knobs: Sequence[Knob]) -> Design:
    """The design with all that a combination of these changes may do."""
    for knob in knobs:
        design = knob.apply(design, knob.values[-1] if knob.least is None else knob.least)
    return design


def _block_size(design: Design) -> int:
    """Bytes of the weights and the KV cache of all blocks: what must be on chip or stream."""
    if not _is_possible(design):
        return 0  # dismissed at once
    tensors = build_program(design).tensors.values()
    return sum(t.size for t in tensors if t.kind in (Kind.WEIGHT, Kind.STATE) and t.in_blocks)


def _single(probe: _Probe, design: Design, knob: Knob) -> Remedy | None:
    found = probe.first(len(knob.values), lambda index: knob.apply(design, knob.values[index]))
    if found is None or not is_plannable(found[1].program, probe.target):
        return None
    change = Change(knob, knob.values[found[0]], knob.is_exact)
    return Remedy((change,), design, found[1].design)


def _combined(probe: _Probe, design: Design, knobs: Sequence[Knob]) -> Remedy | None:
    """Numbers as little changed as possible with the drastic choices, then milder choices."""
    values = {knob.change: knob.values[-1] for knob in knobs}

    def variant(share: int) -> Design:
        changed = design
        for knob in knobs:
            value = knob.part((share + 1) / SHARES) if knob.is_number else values[knob.change]
            changed = knob.apply(changed, value)
        return changed

    found = probe.first(SHARES if any(knob.is_number for knob in knobs) else 1, variant)
    if found is None:
        return None
    share, draft = found
    for knob in knobs:
        for value in [] if knob.is_number else knob.values[:-1]:
            drastic, values[knob.change] = values[knob.change], value
            milder = probe.fitting(variant(share))
            if milder:
                draft = milder
                break
            values[knob.change] = drastic
    if not is_plannable(draft.program, probe.target):
        return None
    numbers = {k.change: k.part((share + 1) / SHARES) for k in knobs if k.is_number}
    changes = tuple(Change(k, (values | numbers)[k.change], most=False) for k in knobs)
    return Remedy(changes, design, draft.design)


class _Probe:
    """Asks whether designs fit one target, and counts the drafts that this takes."""

    def __init__(self, target: TargetSpec) -> None:
        self.target = target
        self.drafts = 0
        self.made: list[tuple[Design, _Draft | None]] = []

    def first(self, count: int, variant: Variant) -> tuple[int, _Draft] | None:
        """The first of `count` variants that fits, taking for granted that the later ones do."""
        if not self.may_fit(variant(count - 1)):
            return None
        low, high = self._possible(count, variant), count - 1
        found = self.fitting(variant(high))
        first = self.fitting(variant(low)) if found else None
        if first:
            return low, first
        low += 1
        while found and low < high:
            middle = (low + high) // 2
            better = self.fitting(variant(middle))
            if better:
                found, high = better, middle
            else:
                low = middle + 1
        return (high, found) if found else None

    def _possible(self, count: int, variant: Variant) -> int:
        """The first variant that the sizes alone do not rule out."""
        low, high = 0, count - 1
        while low < high:
            middle = (low + high) // 2
            if self.may_fit(variant(middle)):
                high = middle
            else:
                low = middle + 1
        return low

    def may_fit(self, design: Design) -> bool:
        """Whether a design is possible and its sizes are."""
        return _is_possible(design) and may_fit(build_program(design), self.target)

    def fitting(self, design: Design) -> _Draft | None:
        """A design with its program; None when there is no room for it."""
        for known, draft in self.made:
            if known == design:
                return draft
        if not self.may_fit(design):
            return None
        self.drafts += 1
        program = build_program(design)
        fits = has_room(program, self.target)
        self.made.append((design, _Draft(design, program) if fits else None))
        return self.made[-1][1]


def _is_possible(design: Design) -> bool:
    try:
        check_design(design)
    except ConfigError:
        return False
    return True

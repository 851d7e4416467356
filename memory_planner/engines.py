"""Which linears run on the engine, and in which arrangement of their weights.

Every linear is decided on its own by modelled cycles: those of the cores with its tiles, against
those of the engine's jobs with what the cores do before and after them (engine_cost.py). A
linear whose words find no room where the engine reads goes back to the cores, and so do linears
whose words or buffers make the model exceed a memory. What was decided, and why, is a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from memory_planner.engine_chains import windows_of
from memory_planner.engine_cost import EngineCost, core_cycles
from memory_planner.engine_options import (
    Option,
    Terms,
    arrangement_text,
    best_options,
    linears_by_vector,
)
from memory_planner.plan import Plan
from memory_planner.prefill import Batched
from memory_planner.target import TargetSpec
from toolchain.model.adapters import is_adapter_op
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.engine_program import is_tied, with_engine
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.matrix_storage import packing_name
from toolchain.model.names import GATE, HEAD
from toolchain.model.packing import WeightLayout
from toolchain.model.program import Op, OpKind, Program
from toolchain.model.prompt_words import with_prompt_words

SHARES = 4  # of the linears that are tried on the engine when not all have room
OFF_CHIP = "off chip"  # begins the reason of linears that stream
NO_ROOM = "no room on chip"  # for words that the engine reads
Draft = Callable[[Program], Plan]


class EngineChoice(StrEnum):
    """What the user asks for."""

    AUTO = "auto"  # by modelled cycles
    NEUREKA = "neureka"  # every linear that can
    CORES = "cores"


@dataclass(frozen=True, slots=True)
class EngineWish:
    """What a design says about the engine."""

    choice: EngineChoice
    bits: Mapping[str, int]  # of a weight, by op id of the stored matrix ("embed": a tied head)
    staying: Mapping[str, str] = field(default_factory=dict)  # op ids for the cores, and why
    batch: int | None = None  # tokens of a prompt that go together; None: what pays


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one linear runs, and why. Cycles are those of the whole op, 0 when not possible."""

    op: str
    engine: str  # the engine's name, or cores
    packing: str
    arrangement: str  # dense, column, pixel, with the columns left to the cores; "" on the cores
    reason: str
    engine_cycles: int
    core_cycles: int


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A program with layouts for the engine, and every decision; none without an engine."""

    program: Program
    layouts: Mapping[str, EngineLayout]
    decisions: tuple[Decision, ...]
    draft: Plan | None = None  # of `program`, on a target with an engine
    batched: Batched | None = None  # its plan with transfers and batches, where that is known
    prompt_words: bool = False  # `program` has second copies of the words of its blocks

    def laid_out(self, program: Program) -> Program:
        """A program whose linears are all laid out for the cores as `program` of this one is."""
        found = with_engine(program, self.layouts)
        return with_prompt_words(found) if self.prompt_words else found


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A linear that can run on the engine."""

    op: Op
    layout: EngineLayout  # the best arrangement
    cost: EngineCost
    cores: float  # cycles
    extra: int  # bytes more than for the cores


def assign_engines(
    program: Program,
    target: TargetSpec,
    wish: EngineWish,
    draft: Draft,
) -> Assignment:
    """Decide for every linear of `program`, all of whose linears are laid out for the cores.

    `draft` plans a program, whether or not it fits. Raises ConfigError when the target has no
    engine to pin.
    """
    choice = wish.choice
    if target.engine is None:
        if choice is EngineChoice.NEUREKA:
            problem = Problem("--engine", choice.value, f"auto or cores: {target.name} has none")
            raise ConfigError("some options cannot be used", [problem])
        return Assignment(program, {}, ())
    best = _share(program, target, wish, draft)
    if best.short:
        best = max(best, _share(program, target, wish, draft, smallest=True), key=_score)
    layouts = {op_id: each.layout for op_id, each in best.kept.items()}
    decisions = tuple(
        _decision(
            op, program, target, (best.candidates.get(op.id), layouts.get(op.id), best.refused)
        )
        for op in program.ops
        if op.kind is OpKind.LINEAR
    )
    return Assignment(best.program, layouts, decisions, best.plan)


@dataclass(frozen=True, slots=True)
class _Share:
    """What the engine gets of the linears, and why not the others."""

    score: float  # modelled cycles saved, off-chip transfers included
    candidates: Mapping[str, _Candidate]
    kept: Mapping[str, _Candidate]
    refused: Mapping[str, str]
    program: Program
    plan: Plan

    @property
    def short(self) -> bool:
        """Whether some words had no room."""
        return any(why == NO_ROOM or why.startswith(OFF_CHIP) for why in self.refused.values())


def _score(share: _Share) -> float:
    return share.score


def _share(
    program: Program,
    target: TargetSpec,
    wish: EngineWish,
    draft: Draft,
    *,
    smallest: bool = False,
) -> _Share:
    """The engine's share, its words in the fastest arrangements or in the smallest ones."""
    candidates, refused = _candidates(program, target, wish, smallest=smallest)
    for op_id in candidates.keys() & wish.staying.keys():
        del candidates[op_id]
        refused[op_id] = wish.staying[op_id]
    wanted = {
        op_id: each
        for op_id, each in candidates.items()
        if wish.choice is EngineChoice.NEUREKA or each.cost.cycles < each.cores
    }
    for op_id in candidates.keys() - wanted.keys():
        refused[op_id] = "slower than the cores"
    drafts = _Drafts(program, draft)
    if wanted and any(region.free < 0 for region in drafts.of({})[1].regions):
        refused |= dict.fromkeys(wanted, "the model does not fit")
        wanted = {}
    score, kept, reasons = _settle(drafts, target, wanted)
    return _Share(score, candidates, kept, {**refused, **reasons}, *drafts.of(kept))


class _Drafts:
    """The program with some linears on the engine, and its plan; none is planned twice."""

    def __init__(self, program: Program, draft: Draft) -> None:
        self.program = program  # all on the cores
        self._draft = draft
        self._known: dict[frozenset[str], tuple[Program, Plan]] = {}

    def of(self, kept: Mapping[str, _Candidate]) -> tuple[Program, Plan]:
        """Program and plan with the linears of `kept` on the engine."""
        key = frozenset(kept)
        if key not in self._known:
            layouts = {op_id: each.layout for op_id, each in kept.items()}
            program = with_engine(self.program, layouts)
            self._known[key] = program, self._draft(program)
        return self._known[key]


def _candidates(
    program: Program, target: TargetSpec, wish: EngineWish, *, smallest: bool
) -> tuple[dict[str, _Candidate], dict[str, str]]:
    """Linears that the engine can compute, by op id, and why the others are not."""
    found: dict[str, _Candidate] = {}
    refused = {op.id: "an adapter" for op in program.ops if is_adapter_op(op)}
    if wish.choice is EngineChoice.CORES:
        reason = "pinned to the cores"
        return {}, {op.id: reason for op in program.ops if op.kind is OpKind.LINEAR}
    known: dict[tuple[object, ...], list[Option | str]] = {}
    for ops in linears_by_vector(program):
        windows = windows_of(ops[0])
        linears = tuple((program.layout_of(op), _width(program, op, wish.bits)) for op in ops)
        terms = Terms(ops[0].layer >= 0, ops[0].role == GATE, smallest)
        key = linears, windows, terms
        if key not in known:
            known[key] = best_options(linears, windows, target, terms)
        for op, best in zip(ops, known[key], strict=True):
            if isinstance(best, str):
                refused[op.id] = best
                continue
            layout = program.layout_of(op)
            shared = op.id == HEAD and is_tied(program)
            extra = best.layout.size - (0 if shared else layout.size)
            cores = core_cycles(layout, target)
            found[op.id] = _Candidate(op, best.layout, best.cost, cores, extra)
    return found, refused


def _width(program: Program, op: Op, bits: Mapping[str, int]) -> int:
    """Bits of a weight of `op`."""
    stored = program.weight_of(op).name.removesuffix(".weight")
    return bits.get(stored, program.layout_of(op).packing.field_bits)


def _settle(
    drafts: _Drafts,
    target: TargetSpec,
    wanted: Mapping[str, _Candidate],
) -> tuple[float, dict[str, _Candidate], dict[str, str]]:
    """What stays on the engine: all words where it reads them, nothing too large for a memory.

    Words often take more bytes than the matrices of the cores. Where not all have room, some
    shares of the linears are tried, without those that cost most bytes per cycle saved, and the one
    with the fewest modelled cycles is taken, off-chip transfers included. Returns the cycles that
    it saves, what it keeps, and the reasons of the others.
    """
    order = sorted(wanted, key=lambda op_id: (-_burden(wanted[op_id]), op_id))
    best: tuple[float, dict[str, _Candidate], dict[str, str]] | None = None
    for share in range(SHARES + 1):
        away = set(order[: len(order) * share // SHARES])
        reasons = dict.fromkeys(away, NO_ROOM)
        kept = {op_id: each for op_id, each in wanted.items() if op_id not in away}
        if best is not None and sum(max(0.0, _saved(each)) for each in kept.values()) <= best[0]:
            continue  # what is given back saves nothing more
        plan = _give_back(drafts, target, kept, reasons)
        score = sum(map(_saved, kept.values())) - off_chip_cycles(target, plan)
        if best is None or score > best[0]:
            best = score, kept, _streamed(drafts.program, target, plan, reasons)
        if share == 0 and len(kept) == len(wanted):
            break
    assert best is not None
    return best


def _saved(each: _Candidate) -> float:
    """Cycles, against the cores."""
    return each.cores - each.cost.cycles


def off_chip_cycles(target: TargetSpec, plan: Plan) -> float:
    """Cycles in which everything that is off chip would travel once."""
    if target.off_chip is None:
        return 0.0
    link = target.link_between(target.off_chip.region, target.off_chip.staging[0])
    return plan.region(target.off_chip.region).blob_size / link.bytes_per_cycle


def _give_back(
    drafts: _Drafts,
    target: TargetSpec,
    kept: dict[str, _Candidate],
    reasons: dict[str, str],
) -> Plan:
    """Takes from `kept` what cannot stay, until all is well; the plan of what is left."""
    assert target.engine is not None
    while True:
        _keep_whole(drafts.program, kept, reasons)
        laid_out, plan = drafts.of(kept)
        weights = {op.id: laid_out.weight_of(op).name for op in laid_out.ops if op.id in kept}
        regions = {op_id: plan.placements[name].region for op_id, name in weights.items()}
        outside = [n for n, region in regions.items() if region not in target.engine.weights]
        for op_id in outside:
            del kept[op_id]
            reasons[op_id] = NO_ROOM
        if outside:
            continue
        if not kept or all(region.free >= 0 for region in plan.regions):
            return plan
        for op_id in _dropped(drafts, kept):
            del kept[op_id]
            reasons[op_id] = NO_ROOM


def _streamed(
    program: Program, target: TargetSpec, plan: Plan, reasons: Mapping[str, str]
) -> dict[str, str]:
    """The reasons, of linears whose matrices the cores get from off chip that."""
    if target.off_chip is None:
        return dict(reasons)
    text = f"{OFF_CHIP}, streamed into {' or '.join(target.off_chip.staging)}"
    names = {op.id: program.weight_of(op).name for op in program.ops if op.id in reasons}
    outside = {n for n in names if plan.placements[names[n]].region == target.off_chip.region}
    return {op_id: text if op_id in outside else why for op_id, why in reasons.items()}


def _keep_whole(program: Program, kept: dict[str, _Candidate], reasons: dict[str, str]) -> None:
    """Linears that read one matrix (of a block that runs twice) are all on the engine or none."""
    linears = [op for op in program.ops if op.kind is OpKind.LINEAR]
    away = {program.weight_of(op).name for op in linears if op.id not in kept}
    for op in linears:
        if op.id in kept and program.weight_of(op).name in away:
            del kept[op.id]
            reasons[op.id] = "shared with the cores"


def _dropped(drafts: _Drafts, kept: Mapping[str, _Candidate]) -> list[str]:
    """The fewest linears, those with the largest burden, without which there is room."""
    order = sorted(kept, key=lambda op_id: (-_burden(kept[op_id]), op_id))

    def fits(count: int) -> bool:
        rest = {op_id: each for op_id, each in kept.items() if op_id not in order[:count]}
        _keep_whole(drafts.program, rest, {})
        return all(region.free >= 0 for region in drafts.of(rest)[1].regions)

    low, high = 1, len(order)  # need falls with the count, nearly: what is found is checked again
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return order[:low]


def _burden(each: _Candidate) -> float:
    """Bytes more per cycle saved; linears that save bytes go last."""
    if each.extra <= 0:
        return float(each.extra)
    return each.extra / max(1.0, _saved(each))


def _decision(
    op: Op,
    program: Program,
    target: TargetSpec,
    facts: tuple[_Candidate | None, EngineLayout | None, Mapping[str, str]],
) -> Decision:
    """The record of one linear; `facts`: what it could be, what it became, why others are not."""
    assert target.engine is not None
    candidate, layout, refused = facts
    spec = program.weight_of(op).layout
    assert isinstance(spec, WeightLayout)
    cycles = round(candidate.cost.cycles) if candidate else 0
    cores = round(candidate.cores if candidate else core_cycles(spec, target))
    if layout is None:
        return Decision(op.id, "cores", packing_name(spec), "", refused[op.id], cycles, cores)
    reason = "faster than the cores" if cycles < cores else "pinned to the engine"
    name, packing = target.engine.name, layout.packing.value
    return Decision(op.id, name, packing, arrangement_text(layout), reason, cycles, cores)

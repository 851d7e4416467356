"""How prompts run: whether second copies of the engine's words pay, and what a plan decided.

Copies (toolchain/model/prompt_words.py) are for what the memories that the engine reads have left.
They are taken when nothing else changes its region by them, and when a batch with them saves more
modelled cycles per token than one without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from memory_planner.plan import Plan
from memory_planner.prefill import (
    NO_ROOM,
    PAYS_NOT,
    Batched,
    saved_once,
    saved_per_token,
    with_batches,
)
from memory_planner.prefill_jobs import is_one_function
from memory_planner.target import TargetSpec
from toolchain.model.errors import ConfigError, DoesNotFitError, Problem
from toolchain.model.program import OpKind, Program, is_prompt_words
from toolchain.model.prompt_words import prompt_words, with_prompt_words

OPTION = "--prefill-batch"
COPIES = "second copies"
BATCHES = (1, 2, 4, 8, 16)
Drafter = Callable[[Program], Plan | None]  # None where something would lie off chip
Mover = Callable[[Program, Plan], Plan]  # with transfers; DoesNotFitError


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """What a plan does with prompts; `saved`: modelled cycles per token against single tokens."""

    tokens: int  # of a batch, 1: token by token
    mode: str  # 1 x 1, 3 x 3: of the engine's jobs; tiles: ops for one token after the other
    copies: int  # bytes of second copies of words
    saved: int
    reason: str  # of single tokens, or of jobs without copies

    @property
    def text(self) -> str:
        """In words, for reports."""
        if self.tokens == 1:
            return f"token by token ({self.reason})"
        facts = [f"{self.mode} jobs"] if self.mode != "tiles" else []
        facts += [f"second copies of {self.copies:,} bytes"] if self.copies else []
        facts += [f"{self.saved:,} cycles per token saved"]
        facts += [self.reason] if self.reason else []
        return f"in batches of {self.tokens} tokens ({'; '.join(facts)})"

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "batch": self.tokens,
            "mode": self.mode,
            "second_copies": self.copies,
            "saved_cycles_per_token": self.saved,
            "reason": self.reason,
        }


def check_batch(wanted: int | None, context: int) -> None:
    """ConfigError for a number of tokens that no batch can have."""
    allowed = [str(size) for size in BATCHES if size <= context]
    if wanted is not None and str(wanted) not in allowed:
        problem = Problem(OPTION, str(wanted), f"auto, {', '.join(allowed)}")
        raise ConfigError("some options cannot be used", [problem])


@dataclass(frozen=True, slots=True)
class Prompts:
    """A program with second copies of words or without, its draft, and its plan with batches."""

    program: Program
    draft: Plan
    batched: Batched


def with_copies_that_pay(
    program: Program,
    target: TargetSpec,
    draft: Plan,
    wanted: int | None,
    planning: tuple[Drafter, Mover],
) -> Prompts | None:
    """Second copies of words where prompts gain by them; None where they are not in question."""
    drafter, mover = planning
    if target.costs.batch is None or target.costs.fused is None or wanted == 1:
        return None
    if not has_one_width(program):
        return None
    try:
        plan = mover(program, draft)
    except DoesNotFitError:
        return None
    if not is_one_function(program, plan):
        return None
    alone = with_batches(program, target, plan, wanted)
    copied = with_prompt_words(program)
    roomy, why = drafter(copied), _no_room_for_copies(program, target, plan)
    if roomy is not None and _leaves_alone(draft, roomy):
        found = with_batches(copied, target, mover(copied, roomy), wanted)
        if _is_better(found, alone):
            return Prompts(copied, roomy, found)
        why = f"{COPIES}: {found.reason or PAYS_NOT}"
    if alone.plan.prefill is None and wanted != 1:
        alone = replace(alone, reason=f"{alone.reason}; {why}")
    return Prompts(program, draft, alone)


def has_one_width(program: Program) -> bool:
    """Whether all vectors of the blocks' linears have as many bits: rows of pixels of a 1 x 1 job
    then have as many tokens for all.
    """
    return len({op.mode for op in program.ops if op.kind is OpKind.LINEAR and op.layer >= 0}) == 1


def _leaves_alone(draft: Plan, copied: Plan) -> bool:
    """Whether everything has room, and what was there is in the region where it was."""
    if any(region.free < 0 for region in copied.regions):
        return False
    places = copied.placements
    return all(places[name].region == place.region for name, place in draft.placements.items())


def _is_better(found: Batched, alone: Batched) -> bool:
    if found.plan.prefill is None:
        return False
    return alone.plan.prefill is None or found.saved > alone.saved


def check_wish(wanted: int | None, found: Batched) -> None:
    """ConfigError where a batch that was asked for is not in the plan."""
    batch = found.plan.prefill.batch if found.plan.prefill else 1
    if wanted is not None and batch != wanted:
        allowed = "auto, or fewer tokens" if wanted > 2 else "auto or 1"
        problem = Problem(OPTION, f"{wanted} tokens: {found.reason}", allowed)
        raise ConfigError("some options cannot be used", [problem])


def prompt_choice(program: Program, target: TargetSpec, plan: Plan) -> PromptChoice:
    """What `plan` does with prompts, and why."""
    how, costs = plan.prefill, target.costs.batch
    if any(region.free < 0 for region in plan.regions):
        return PromptChoice(1, "", 0, 0, "the model does not fit")
    copies = sum(spec.size for spec in program.tensors.values() if is_prompt_words(spec))
    if how is None or costs is None:
        reason = with_batches(program, target, plan).reason
        if reason and not copies and is_one_function(program, plan):
            reason += f"; {_why_no_copies(program, target, plan)}"
        return PromptChoice(1, "", 0, 0, reason or "asked for")
    if not how.chains:
        saved = saved_once(program, target, plan, costs) * (how.batch - 1) / how.batch
        return PromptChoice(how.batch, "tiles", 0, round(saved), "")
    saved = saved_per_token(program, target, plan, how)
    if copies:
        return PromptChoice(how.batch, "1 x 1", copies, round(saved), "")
    return PromptChoice(how.batch, "3 x 3", 0, round(saved), _why_no_copies(program, target, plan))


def _why_no_copies(program: Program, target: TargetSpec, plan: Plan) -> str:
    """Why jobs of several tokens, if there are any, read the words of steps."""
    if not has_one_width(program):
        return f"{COPIES} serve vectors of one width, a16 or a8 at all sites"
    size, free = _copies_against_room(program, target, plan)
    if size > free:
        return _no_room_for_copies(program, target, plan)
    return f"{COPIES} of {size:,} bytes: {PAYS_NOT} more, or {NO_ROOM} for their jobs"


def _no_room_for_copies(program: Program, target: TargetSpec, plan: Plan) -> str:
    size, free = _copies_against_room(program, target, plan)
    if size <= free:
        return f"{COPIES} of {size:,} bytes would move something else"
    return f"{COPIES}: {NO_ROOM}, {size:,} of {free:,} bytes"


def _copies_against_room(program: Program, target: TargetSpec, plan: Plan) -> tuple[int, int]:
    """Bytes that second copies take, and that the memories which the engine reads have left."""
    assert target.engine is not None
    size = sum(spec.size for spec in prompt_words(program).values())
    return size, sum(max(0, plan.region(name).free) for name in target.engine.weights)

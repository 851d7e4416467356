"""Lifetimes on the folded timeline, by hand and against a brute-force definition."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.liveness import folded_roles, lifetimes
from tests.memory_planner.toy import toy_program
from toolchain.model.program import DType, Kind, Op, OpKind, Program, TensorSpec

# role        0 embed  1 attn.norm  2 q  3 k  4 v  5 rope  6 kv_append  7 attention  8 merge
#   9 o_proj  10 attn.residual  11 mlp.norm  12 gate  13 up  14 swiglu  15 down  16 mlp.residual
#   17 final.norm  18 lm_head  19 argmax
EXPECTED = {
    "resid": (0, 18),  # crosses the blocks; the head no longer needs it
    "attn.norm.q": (1, 5),
    "attn.norm.scale": (1, 5),
    "attn.q": (2, 6),
    "attn.k": (3, 7),
    "attn.v": (4, 7),
    "attn.rope.q": (5, 8),
    "attn.rope.scale": (5, 8),
    "attn.acc": (7, 9),
    "attn.stats": (7, 9),
    "attn.merge.q": (8, 10),
    "attn.merge.scale": (8, 10),
    "attn.o": (9, 11),
    "mlp.norm.q": (11, 14),
    "mlp.norm.scale": (11, 14),
    "mlp.gate": (12, 15),
    "mlp.up": (13, 15),
    "mlp.swiglu.q": (14, 16),
    "mlp.swiglu.scale": (14, 16),
    "mlp.down": (15, 17),
    "final.norm.q": (17, 19),
    "final.norm.scale": (17, 19),
    "logits": (18, 20),
    "next": (19, 20),
}


def test_decode_step_by_hand() -> None:
    assert lifetimes(toy_program()) == EXPECTED


def test_number_of_blocks_does_not_matter() -> None:
    shape = toy_program().shape
    for layers in (1, 3, 7):
        program = toy_program(replace(shape, layers=layers))
        assert lifetimes(program) == EXPECTED
        assert len(folded_roles(program)) == 20


def schedule(*rows: tuple[str, int, str, str]) -> Program:
    """Ops from (role, layer, inputs, outputs); names are single letters."""
    ops = tuple(
        Op(f"{index}", role, layer, OpKind.RESIDUAL_ADD, tuple(inputs), tuple(outputs))
        for index, (role, layer, inputs, outputs) in enumerate(rows)
    )
    names = sorted({name for op in ops for name in (*op.inputs, *op.outputs)})
    tensors = {name: TensorSpec(name, Kind.ACTIVATION, DType.I32, (1,)) for name in names}
    return replace(toy_program(), ops=ops, tensors=tensors)


def test_value_that_crosses_into_the_next_block_covers_what_lies_between() -> None:
    program = schedule(
        ("start", -1, "", "x"),
        ("a", 0, "x", "y"),
        ("b", 0, "y", "z"),
        ("c", 0, "z", "x"),  # x goes to role a of block 1: over c, then a
        ("a", 1, "x", "y"),
        ("b", 1, "y", "z"),
        ("c", 1, "z", "x"),
        ("end", -1, "x", "w"),
    )
    assert lifetimes(program) == {"x": (0, 5), "y": (1, 3), "z": (2, 4), "w": (4, 5)}


def test_read_before_written_is_carried_from_step_to_step() -> None:
    program = schedule(("a", -1, "", "p"), ("b", -1, "ps", "q"), ("c", -1, "q", "s"))
    assert lifetimes(program)["s"] == (0, 3)


def test_value_never_read_is_a_result_of_the_step() -> None:
    program = schedule(("a", -1, "", "p"), ("b", -1, "", "r"), ("c", -1, "p", "q"))
    assert lifetimes(program)["r"] == (1, 3)


def test_in_place_update_continues_the_value() -> None:
    program = schedule(("a", -1, "", "p"), ("b", -1, "p", "p"), ("c", -1, "p", "q"))
    assert lifetimes(program)["p"] == (0, 3)


OPS = st.tuples(
    st.sampled_from("abcde"), st.just(0), st.text("pqr", max_size=2), st.text("pqr", max_size=2)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPS, min_size=1, max_size=9))
def test_covers_every_role_at_which_a_value_is_needed(
    rows: list[tuple[str, int, str, str]],
) -> None:
    program = schedule(*rows)
    times = {role: index for index, role in enumerate(folded_roles(program))}
    intervals = lifetimes(program)
    for name in program.tensors:
        first, last = intervals[name]
        for index in _needed(program.ops, name):
            assert first <= times[program.ops[index].role] < last


def _needed(ops: tuple[Op, ...], name: str) -> set[int]:
    """Ops that touch it, or lie between a write (or the step's start) and a read of that value."""
    needed = {i for i, op in enumerate(ops) if name in op.inputs or name in op.outputs}
    for read in range(len(ops)):
        if name not in ops[read].inputs:
            continue
        begin = read
        while begin >= 0 and not (
            begin < read and name in ops[begin].outputs and name not in ops[begin].inputs
        ):
            begin -= 1
        needed |= set(range(max(begin, 0), read + 1))
    return needed

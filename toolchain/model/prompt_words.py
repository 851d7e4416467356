"""A second copy of the engine's words, in which one pass serves many tokens of a prompt.

In 3 x 3 a job has room for four vectors; in 1 x 1 it has 36 pixels, each of them a vector, but
every weight takes a byte, whatever its bits. The copy holds the same integers, with the groups and
the tail that the requantization table of the linear has.
"""

from __future__ import annotations

from dataclasses import replace

from toolchain.model.engine_packing import EngineLayout
from toolchain.model.packing import Packing
from toolchain.model.program import Program, TensorSpec, prompt_name


def prompt_layout(layout: EngineLayout) -> EngineLayout:
    """The layout of the copy of words."""
    return replace(layout, packing=Packing.NEUREKA_1X1, taps=1)


def prompt_words(program: Program) -> dict[str, TensorSpec]:
    """The copies of the words of all linears of the blocks that the engine computes."""
    found = {}
    for op in program.ops:
        layout = program.engine_layout_of(op)
        if layout is not None and op.layer >= 0:
            spec = program.weight_of(op)
            name = prompt_name(spec.name)
            found[name] = replace(spec, name=name, layout=prompt_layout(layout))
    return found


def with_prompt_words(program: Program) -> Program:
    """`program` with those copies, which no op reads."""
    copies = prompt_words(program)
    values = {prompt_name(name): value for name, value in program.constants.items()}
    constants = {name: values[name] for name in copies if name in values}
    return replace(
        program,
        tensors={**program.tensors, **copies},
        constants={**program.constants, **constants},
    )

"""What a page about the toy program is made from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memory_planner.planner import plan_memory
from memory_planner.target import TargetSpec
from sim.profile import profile
from sim.timeline import decode_timeline
from toolchain.model.program import Program
from toolchain.report.source import Json, PageSource

FIT: Json = {
    "fits": True,
    "parameters": {"dense": 1, "kept": 1},
    "bytes": {"packed": 1},
    "estimate": {
        "position": 10,
        "cycles_per_token": 1,
        "tokens_per_second": 1.5,
        "bound_tokens_per_second": 2.5,
    },
}


def source(program: Program, target: TargetSpec, **changes: Any) -> PageSource:
    plan = plan_memory(program, target)
    page = PageSource(
        title="toy",
        version="1.2.3",
        program=program,
        plan=plan,
        target=target,
        fit=FIT,
        bits={},
        profile=profile(program, plan, target, 10),
        timeline=decode_timeline(program, plan, target, 10),
    )
    return replace(page, **changes)

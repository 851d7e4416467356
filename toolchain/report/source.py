"""What a report page is made from: values that a compile or a fit already has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from sim.latency import LatencyReport
from sim.profile import Profile
from sim.timeline import Event
from toolchain.model.program import Program

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class PageSource:
    """A program on a target, its estimate and its reports; nothing here knows a path or a time.

    `model_hash` and `quantization` are None when no weights were read, `profile` is None and
    `timeline` empty when the plan exceeds the target.
    """

    title: str  # what the user calls the model
    version: str  # of edgec
    program: Program
    plan: Plan
    target: TargetSpec
    fit: Json  # report/fit.json
    bits: Mapping[str, int]  # of every stored matrix, by tensor name
    profile: Profile | None = None
    timeline: Sequence[Event] = ()  # of the token of `profile`
    model_hash: str | None = None
    quantization: Json | None = None  # report/quantization.json

    @property
    def latency(self) -> LatencyReport | None:
        """The estimate of the token."""
        return self.profile.latency if self.profile else None

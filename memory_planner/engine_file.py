"""The [engine] section of a target file: `EngineSpec`, and what must hold of it."""

from __future__ import annotations

from dataclasses import fields

from memory_planner.engine_time import EngineCycles
from memory_planner.target import EngineSpec, Reading, TargetSpec
from memory_planner.toml_table import Table
from toolchain.model.errors import Problem


def read_engine(table: Table) -> EngineSpec:
    """The engine that `table` describes."""
    cycles = {reading: _cycles(table.table(reading.value)) for reading in Reading}
    engine = EngineSpec(
        name=table.text("name"),
        activations=table.text("activations"),
        weights=table.names("weights"),
        weight_base=table.integer("weight_base", "address"),
        issue_cycles=table.number("issue", "cycles/job"),
        stage_cycles=table.number("stage", "cycles/element"),
        row_cycles=table.number("row", "cycles/row"),
        sum_cycles=table.number("sum", "cycles/accumulator"),
        start_cycles=table.number("start", "cycles/linear"),
        piece_cycles=table.number("piece", "cycles/piece"),
        cycles=cycles[Reading.SIMULATOR],
        conservative=cycles[Reading.CONSERVATIVE],
    )
    table.finish()
    return engine


def _cycles(table: Table) -> EngineCycles:
    names = [field.name for field in fields(EngineCycles)]
    cycles = EngineCycles(**{name: table.integer(name, "cycles") for name in names})
    table.finish()
    return cycles


def check_engine(spec: TargetSpec) -> list[Problem]:
    """The engine's regions exist, and the cores can work beside it."""
    engine = spec.engine
    if engine is None:
        return []
    names = [region.name for region in spec.regions]
    problems = [
        Problem("engine", f"region {name!r}", f"one of {', '.join(names)}")
        for name in (engine.activations, *engine.weights)
        if name not in names
    ]
    if problems:
        return problems
    if spec.tiling is None:
        problems.append(Problem("engine", "a target without [tiling]", "one with tiles"))
    preferred = spec.placement["activations"][0]
    if engine.activations != preferred:
        found = f"activations in {engine.activations}"
        problems.append(Problem("engine", found, f"{preferred}, where activations lie"))
    for name in engine.weights:
        if spec.region(name).base < engine.weight_base:
            found = f"weights in {name} at {spec.region(name).base:#x}"
            problems.append(Problem("engine", found, f"{engine.weight_base:#x} or above"))
        if spec.region(name).align % 32:
            found = f"alignment {spec.region(name).align} of {name}"
            problems.append(Problem("engine", found, "whole words of 32 bytes"))
    return problems

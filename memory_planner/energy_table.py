"""The `[energy]` section of a target file: power by lane, energy per byte by link."""

from __future__ import annotations

from memory_planner.target import CORES, ENGINE, ENGINE_PORT, Energy, TargetSpec
from memory_planner.toml_table import Table
from toolchain.model.errors import Problem


def read_energy(table: Table) -> Energy:
    """The constants; `check_energy` looks at their names."""
    power, per_byte = table.table("power"), table.table("per_byte")
    energy = Energy(
        power={key: power.span(key, "mW") for key in power.entries()},
        per_byte={key: per_byte.span(key, "pJ/B") for key in per_byte.entries()},
        average=table.number("average", "mW", positive=True),
    )
    table.finish()
    return energy


def check_energy(spec: TargetSpec) -> list[Problem]:
    """Every link costs energy, and so do the cores and an engine; nothing else does."""
    if spec.energy is None:
        return []
    wanted = {
        "power": {CORES, *([ENGINE] if spec.engine else [])},
        "per_byte": {*(k.name for k in spec.links), *([ENGINE_PORT] if spec.engine else [])},
    }
    found = {"power": spec.energy.power.keys(), "per_byte": spec.energy.per_byte.keys()}
    problems = []
    for table, names in wanted.items():
        for name in sorted(names - found[table]):
            problems.append(Problem(f"energy.{table}.{name}", "nothing", "a constant"))
        for name in sorted(found[table] - names):
            known = ", ".join(sorted(names))
            problems.append(Problem(f"energy.{table}.{name}", "an unknown key", known))
    return problems

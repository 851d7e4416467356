"""The order in which a class of data prefers its regions: by cycles per byte on the way to use.

Data that tiles carry costs its link's time; data that the cores read in place costs the link's
time, if there is one, and the loads: one for every four bytes. Regions that cost the same keep
the order of the target file.
"""

from __future__ import annotations

from dataclasses import replace

from memory_planner.target import CORES, TargetSpec

MOVED = ("weights", "state")  # with tiles; everything else is read in place
LOAD = 4  # bytes


def by_cost(target: TargetSpec) -> TargetSpec:
    """The target with each class's regions in order of cost, cheapest first."""
    placement = {
        group: tuple(sorted(names, key=lambda name: cycles_per_byte(target, group, name)))
        for group, names in target.placement.items()
    }
    return replace(target, placement=placement)


def cycles_per_byte(target: TargetSpec, group: str, region: str) -> float:
    """Modelled cycles until a core has used a byte of a placement class that lies in `region`."""
    if group in MOVED and target.tiling:
        return 1 / target.link_between(region, target.tiling.region).bytes_per_cycle
    loads = target.region(region).load_cycles / LOAD
    if group in MOVED:
        loads += 1 / target.link_between(region, CORES).bytes_per_cycle
    return loads

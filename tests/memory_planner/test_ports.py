"""A target declares a chip's port only where the port's addresses hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memory_planner.ports import check_ports
from memory_planner.target import Reservation, TargetSpec
from memory_planner.target_file import load_target, read_target_text
from toolchain.model.errors import ConfigError


@pytest.fixture
def siracusa() -> TargetSpec:
    return load_target("siracusa")


def changed(target: TargetSpec, which: str, **values: object) -> TargetSpec:
    regions = tuple(
        replace(region, **values) if region.name == which else region  # type: ignore[arg-type]
        for region in target.regions
    )
    return replace(target, regions=regions)


def test_the_chip_declares_its_ports(siracusa: TargetSpec) -> None:
    assert siracusa.ports == ("siracusa", "pmsis")
    assert check_ports(siracusa) == []
    assert load_target("rv32").ports == ()


def test_unknown_ports_are_refused(tmp_path: Path) -> None:
    text = read_target_text("siracusa").replace('"pmsis"]', '"pmsis", "zephyr"]')
    file = tmp_path / "other.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"ports: found 'zephyr', allowed some of pmsis, siracusa"
    ):
        load_target(file)


def found(target: TargetSpec) -> list[str]:
    return [problem.found for problem in check_ports(target) if problem.where == "port siracusa"]


def test_memories_are_where_the_port_expects_them(siracusa: TargetSpec) -> None:
    assert found(changed(siracusa, "l1", name="tcdm")) == ["no region l1"]
    moved = changed(siracusa, "l2", base=0x1D00_0000)
    assert found(moved) == ["l2 of 2097152 bytes at 0x1d000000"]
    assert found(changed(siracusa, "l1", size=1 << 19)) == ["l1 of 524288 bytes at 0x10000000"]
    bare = changed(siracusa, "l2", reservations=())
    assert found(bare) == [
        "no bytes of l2 reserved for stacks",
        "no bytes of l2 reserved for code",
    ]


def test_reservations_fit_the_start_up_code(siracusa: TargetSpec) -> None:
    little = (Reservation("stacks", "s", 8192), Reservation("code", "c", 16384))
    assert found(changed(siracusa, "l2", reservations=little)) == ["24576 reserved bytes of l2"]
    eight = (Reservation("stacks", "s", 8 * 2048, 8),)
    assert found(changed(siracusa, "l1", reservations=eight)) == ["[8] stacks in l1"]
    odd = (Reservation("stacks", "s", 9 * 2040, 9),)
    assert found(changed(siracusa, "l1", reservations=odd)) == ["stacks of 2040 bytes in l1"]
    assert found(replace(siracusa, cores=9)) == ["9 cores"]
    long = tuple(
        replace(link, max_transfer=1 << 17) if link.name == "l2_to_l1" else link
        for link in siracusa.links
    )
    assert found(replace(siracusa, links=long)) == ["link l2_to_l1: 131072 bytes"]


def test_the_sdk_s_port_needs_the_driver_of_the_other(siracusa: TargetSpec) -> None:
    (problem,) = check_ports(replace(siracusa, ports=("pmsis",)))
    assert problem.found == "pmsis alone"

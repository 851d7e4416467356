"""Target files: what is read, and that every defect is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from memory_planner.limits import without_off_chip
from memory_planner.target import Reading, Status, TargetSpec
from memory_planner.target_file import list_targets, load_target
from toolchain.model.errors import ConfigError

TARGETS = Path(__file__).parents[2] / "memory_planner" / "targets"


def test_lists_the_packaged_targets() -> None:
    assert list_targets() == ("rv32", "siracusa")


def test_siracusa_memory_map() -> None:
    target = load_target("siracusa")
    table = {region.name: (region.base, region.size, region.align) for region in target.regions}
    assert table == {
        "mram": (0x1040_0000, 4 << 20, 32),
        "tile_sram": (0x1080_0000, 4 << 20, 32),
        "l2": (0x1C00_0000, 2 << 20, 8),
        "l1": (0x1000_0000, 256 << 10, 8),
        "hyperram": (0x8000_0000, 64 << 20, 32),
    }
    assert target.region("l1").reserved == 8 + 9 * 2944 + 8192
    assert target.region("mram").reserved == 32
    assert target.cores == 8
    assert target.link("tile_sram").max_transfer < 128 << 10
    assert target.link("l2").name == "l2_to_l1"


def test_rv32_reads_in_place() -> None:
    target = load_target("rv32")
    assert target.tiling is None
    assert target.link("flash").destination == "cores"
    # 3.16 instructions of 1.3 cycles
    assert target.costs.mac["nibble"] == pytest.approx(4.108)


def test_counted_costs_get_the_extra_cycle_of_a_multiplication(tmp_path: Path) -> None:
    text = (TARGETS / "siracusa.toml").read_text(encoding="utf-8")
    counted = re.sub(
        r"(?m)^nibble = .*$",
        'nibble = { value = 3.6, unit = "instructions/MAC", source = "spike", status = "assumed" }',
        text,
    )
    (tmp_path / "counted.toml").write_text(counted, encoding="utf-8")
    costs = load_target(tmp_path / "counted.toml").costs
    assert costs.mac["nibble"] == pytest.approx(3.6 * 1.33 + 1.0)
    assert costs.mac["byte"] == load_target("siracusa").costs.mac["byte"]


@pytest.mark.parametrize("name", ["rv32", "siracusa"])
def test_every_constant_has_its_provenance(name: str) -> None:
    target = load_target(name)
    regions = 4 * len(target.regions) + sum(len(r.reservations) for r in target.regions)
    assert len(target.constants) > regions + 4 * len(target.links) + 15
    assert all(constant.source and constant.unit for constant in target.constants.values())
    assert target.constants["clock"].value == target.clock_hz


def test_rv32_says_that_its_sizes_are_assumed() -> None:
    constants = load_target("rv32").constants
    for path in ("clock", "region.flash.size", "region.sram.size", "costs.instruction"):
        assert constants[path].status is Status.ASSUMED


def test_no_number_without_a_table_in_packaged_files() -> None:
    """Any digit outside a { value, unit, source, status } table would have no provenance."""
    for path in TARGETS.glob("*.toml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "value =" in line or line.startswith("#"):
                assert line.startswith("#") or all(
                    f"{key} =" in line for key in ("value", "unit", "source", "status")
                )
            else:
                assert not re.search(r"= *[-0-9]", line), line


def test_path_of_an_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = (TARGETS / "rv32.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('name = "rv32"', 'name = "mine"'), encoding="utf-8")
    assert load_target(path).name == "mine"
    assert load_target(str(path)) == load_target(path)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"rv32, siracusa, or the path of a \.toml file"):
        load_target("siracuse")


def test_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("name = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_target(path)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        load_target(path)


def _spoil(old: str, new: str) -> Callable[[str], str]:
    def spoil(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return spoil


def _set(section: str, key: str, value: str) -> Callable[[str], str]:
    """The first constant of this name behind the head of a section."""

    def spoil(text: str) -> str:
        before, head, behind = text.partition(f"[{section}]\n")
        constant = rf"(?m)^({key} = {{ value = )[^,]+"
        changed, count = re.subn(constant, rf"\g<1>{value}", behind, count=1)
        assert (head, count) == (f"[{section}]\n", 1)
        return before + head + changed

    return spoil


CLOCK = "clock = { value = 100000000"
DEFECTS = [
    (_spoil('name = "rv32"', 'title = "rv32"'), "name: found nothing"),
    (_spoil('name = "rv32"', 'title = "rv32"'), "title: found an unknown key"),
    (_spoil('name = "rv32"', 'name = "a/../b"'), "name: found 'a/../b'"),
    (_spoil('section = ".flash_model"', 'section = "x\\"; bad"'), "region.flash.section"),
    (_spoil(CLOCK, "clock = { value = 0"), "clock: found 0"),
    (_spoil(CLOCK, "clock = { value = 1.5"), "clock: found 1.5"),
    (_spoil(CLOCK, "clock = { value = nan"), "clock.value: found nan"),
    (_spoil(CLOCK, "clock = { value = true"), "clock.value: found True"),
    (_spoil('unit = "Hz"', 'unit = "MHz"'), "clock.unit: found 'MHz', allowed Hz"),
    (_spoil('status = "assumed"', 'status = "guessed"'), "allowed measured, documented, assumed"),
    (_spoil(', status = "assumed"', ""), "allowed { value, unit, source, status }"),
    (_spoil("volatile = false", 'volatile = "no"'), "region.flash.volatile"),
    (_spoil('category = "code"', 'category = "firmware"'), "region.flash.reserved.0.category"),
    (_spoil('state = ["sram"]', 'state = ["ram"]'), "placement.state: found region 'ram'"),
    (_spoil('state = ["sram"]', "state = []"), "placement.state: found []"),
    (_spoil('state = ["sram"]', 'cache = ["sram"]'), "placement.cache: found an unknown key"),
    (_spoil('from = ["flash"]', 'from = ["sram"]'), "no link from flash to cores"),
    (_spoil('to = "cores"', 'to = "core"'), "link flash_to_cores: found region 'core'"),
    (_spoil("value = 0x80000000", "value = 0x20800000"), "regions flash and sram"),
    (_spoil("value = 0x80000000", "value = 0xfff00000"), "allowed 32-bit addresses"),
    (_spoil("align = { value = 32", "align = { value = 24"), "alignment 24 bytes"),
    (_spoil("align = { value = 8", "align = { value = 4"), "alignment 4 bytes"),
    (_spoil("value = 0x80000000", "value = 0x80000004"), "a multiple of its alignment"),
    (_spoil("size = { value = 8192", "size = { value = 9000000"), "9000000 reserved bytes"),
    (_spoil('name = "sram"', 'name = "flash"'), "region flash: found 2 regions"),
    (_spoil("cores = { value = 1", "cores = { value = 17"), "at most 16 cores"),
    (_spoil("byte = {", "word = {"), "costs.mac.byte: found nothing"),
    (_spoil("rate = { value = 4", "rate = { value = 0"), "link.flash_to_cores.rate: found 0"),
]


@pytest.mark.parametrize(("spoil", "message"), DEFECTS, ids=[text for _, text in DEFECTS])
def test_defects_are_named(spoil: Callable[[str], str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(spoil((TARGETS / "rv32.toml").read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    assert message in str(caught.value)


POWER = "cores = { value = 100, low = 50, high = 167"
TRANSFER = "max_transfer = { value = 131064"
SIRACUSA_DEFECTS = [
    (_spoil("conservative = 1.2", 'conservative = "more"'), "costs.contention.conservative"),
    (_spoil("conservative = 0.2778", "conservative = 0"), "link.hyperbus.rate: found 0"),
    (
        _spoil("load = { value = 9.5", "load = { value = 9.5, conservative = 12"),
        "region.mram.load: found ['conservative', 'source', 'status', 'unit', 'value']",
    ),
    (
        _spoil(TRANSFER, TRANSFER + ", conservative = 8"),
        "link.weight_memory_to_l1.max_transfer: found ['conservative'",
    ),
    (_spoil(POWER, "cores = { value = 100, low = 50"), "energy.power.cores: found ['low', 'sou"),
    (_spoil(POWER, "cores = { value = 100, low = 150, high = 167"), "low <= value <= high"),
    (_spoil(POWER, "dma = { value = 100, low = 50, high = 167"), "energy.power.dma: found an un"),
    (_spoil(POWER, "dma = { value = 100, low = 50, high = 167"), "energy.power.cores: found not"),
    (_set("costs.batch", "refetched", "1.5"), "found 1.5, allowed at most 1 cycles/cycle"),
    (_set("costs.fused.fast", "row", "400"), "costs.fused.fast.row: found 400.0, allowed at most"),
    (_set("costs.fused.fast", "score", "1e4"), "costs.fused.fast.score: found 10000.0, allowed"),
    (_spoil("hyperbus = {", "bus = {"), "energy.per_byte.hyperbus: found nothing"),
    (_spoil("hyperbus = {", "bus = {"), "energy.per_byte.bus: found an unknown key"),
]


@pytest.mark.parametrize(("spoil", "message"), SIRACUSA_DEFECTS)
def test_defects_of_readings_and_energy(
    spoil: Callable[[str], str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.toml"
    text = (TARGETS / "siracusa.toml").read_text(encoding="utf-8")
    path.write_text(spoil(text), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    assert message in str(caught.value)


def test_two_readings_of_a_file() -> None:
    target = load_target("siracusa")
    slower = target.read_as(Reading.CONSERVATIVE)
    assert target.read_as(Reading.SIMULATOR) is target
    assert (target.costs.cold_code, slower.costs.cold_code) == (0, 1300)
    assert slower.costs.swiglu == pytest.approx(1.2 * target.costs.swiglu)
    rates = [
        [link.bytes_per_cycle for link in each.links if link.name == "hyperbus"]
        for each in (target, slower)
    ]
    assert [set(each) for each in rates] == [{0.5556}, {0.2778}]
    assert slower.regions == target.regions
    assert target.constants["costs.contention"].read(Reading.CONSERVATIVE) == 1.2
    assert target.constants["costs.rmsnorm"].read(Reading.CONSERVATIVE) == 47.5


def test_a_narrowed_target_keeps_its_readings() -> None:
    narrow = without_off_chip(load_target("siracusa")).read_as(Reading.CONSERVATIVE)
    assert [link.name for link in narrow.links] == ["weight_memory_to_l1", "l2_to_l1"]
    assert narrow.costs.cold_code == 1300


def test_one_reading_where_no_source_differs() -> None:
    target = load_target("rv32")
    assert target.conservative is None
    assert target.read_as(Reading.CONSERVATIVE) is target


def test_all_defects_at_once(tmp_path: Path) -> None:
    text = (TARGETS / "rv32.toml").read_text(encoding="utf-8")
    for spoil, _ in (DEFECTS[3], DEFECTS[5], DEFECTS[11], DEFECTS[16]):
        text = spoil(text)
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    where = {problem.where for problem in caught.value.problems}
    assert where >= {"region.flash.section", "clock", "region.flash.volatile"}


def test_loading_is_pure() -> None:
    first: TargetSpec = load_target("siracusa")
    assert first == load_target("siracusa")

"""The figures: every rectangle is where the plan and the timeline say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory_planner.plan import Placement
from tests.memory_planner.toy import TOY_SHAPE, toy_program, toy_target
from tests.report.page_reader import Element, read_page, section
from tests.report.toy_source import source
from toolchain.report.page import render_report


@pytest.fixture(scope="module")
def toy_page() -> Element:
    return read_page(render_report(source(toy_program(), toy_target())))


def rectangles(figure: Element) -> dict[str, tuple[float, float, float, float]]:
    """Name -> left, right, upper and lower value of each rectangle of a map, in steps and bytes."""
    start, length, low, high = map(float, figure.attributes["data-range"].split())
    frame = figure.one("rect", "frame")
    left, column = frame.number("x"), frame.number("width") / len(figure.all("text", "column"))
    found = {}
    for group in figure.one("g", "plot").all("g"):
        rect = group.one("rect")
        ends = (rect.number("y"), rect.number("y") + rect.number("height"))
        top, bottom = (low + (end - start) * (high - low) / length for end in ends)
        first = (rect.number("x") - left) / column
        name = group.one("title").text.partition(":")[0]
        found[name] = (first, first + rect.number("width") / column, top, bottom)
    return found


def test_map_shows_every_buffer_in_its_place(toy_page: Element) -> None:
    toy = source(toy_program(), toy_target())
    figures = section(toy_page, "maps").all("figure")
    arenas = [region for region in toy.plan.regions if region.arena_size]
    assert len(figures) == len(arenas) + sum(r.blob_size > 0 for r in toy.plan.regions)
    for figure, region in zip(figures, arenas, strict=False):
        places: dict[str, Placement] = {
            name: place
            for name, place in toy.plan.placements.items()
            if place.region == region.name and place.offset >= region.arena_base
        }
        found = rectangles(figure)
        assert found.keys() == places.keys()
        unit = 0.02 * region.arena_size / 100  # of a hundredth, as coordinates are rounded
        for name, (first, last, top, bottom) in found.items():
            place = places[name]
            assert [first, last] == pytest.approx([place.first, place.last], abs=0.001)
            assert bottom == pytest.approx(place.offset, abs=unit)
            assert top == pytest.approx(place.offset + place.size, abs=unit)


def test_strip_shows_every_tensor_in_its_place(toy_page: Element) -> None:
    toy = source(toy_program(), toy_target())
    strips = section(toy_page, "maps").all("figure")[-2:]  # weights and constants
    for figure in strips:
        start, length, low, high = map(float, figure.attributes["data-range"].split())
        for group in figure.one("g", "plot").all("g"):
            place = toy.plan.placements.get(group.one("title").text.partition(":")[0])
            if place is not None:
                rect = group.one("rect")
                offset = low + (rect.number("x") - start) * (high - low) / length
                size = rect.number("width") * (high - low) / length
                assert [offset, size] == pytest.approx([place.offset, place.size], abs=1)


def test_detail_draws_the_events(toy_page: Element) -> None:
    toy = source(toy_program(), toy_target())
    figure = section(toy_page, "timeline").all("figure")[1]
    start, length, low, high = map(float, figure.attributes["data-range"].split())
    first = {op.id for op in toy.program.ops if op.layer == 0}
    events = [event for event in toy.timeline if event.op in first and event.cycles]
    drawn = set()
    for group in figure.one("g", "plot").all("g"):
        rect, title = group.one("rect"), group.one("title").text
        begin = low + (rect.number("x") - start) * (high - low) / length
        drawn.add((title.partition(":")[0], round(begin)))
    for event in events:
        assert (event.label.partition(":")[0], event.start) in drawn


def test_many_tiles_share_bars() -> None:
    """A thousand tiles of one record in the first block, drawn as a few hundred bars."""
    shape = replace(TOY_SHAPE, layers=1, hidden=64, ffn=2048)
    roomy = {"mram": 1 << 20, "tile_sram": 1 << 20, "max_transfer": 1 << 16}
    target = toy_target(cores=1, l1=1 << 17, **roomy)
    target = replace(target, costs=replace(target.costs, barrier=0.0))  # a tile costs nothing
    toy = source(toy_program(shape), target)
    assert len(toy.timeline) > 1000
    figure = section(read_page(render_report(toy)), "timeline").all("figure")[1]
    bars = figure.one("g", "plot").all("rect")
    assert 100 < len(bars) < 2 * 250 + 100
    titles = [each.text for each in figure.all("title")]
    assert any(title.startswith("tiles 1 to ") for title in titles)

"""The page: well formed, self-contained, complete, and nowhere another number than the reports."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from codegen.bundle import LoadedBundle
from memory_planner.limits import MemoryLimits, limited_target
from memory_planner.planner import draft_plan
from memory_planner.target import Pin
from memory_planner.target_file import load_target
from sim.timeline import Lane
from tests.memory_planner.toy import TOY_SHAPE, toy_program, toy_target
from tests.report.page_reader import Element, read_page, section, table_rows, value
from tests.report.toy_source import FIT, source
from toolchain.model.program import Kind
from toolchain.report.page import render_report
from toolchain.report.source import Json, PageSource

MAX_SIZE = 500_000


@pytest.fixture(scope="module")
def page(tiny_bundle: LoadedBundle) -> Element:
    return read_page(html_of(tiny_bundle))


@pytest.fixture(scope="module")
def toy_page() -> Element:
    return read_page(render_report(source(toy_program(), toy_target())))


def html_of(bundle: LoadedBundle) -> str:
    return (bundle.directory / "report" / "report.html").read_text(encoding="utf-8")


def report(bundle: LoadedBundle, name: str) -> Json:
    loaded: Json = json.loads((bundle.directory / "report" / name).read_text(encoding="utf-8"))
    return loaded


def titles(element: Element) -> list[str]:
    return [title.text for title in element.all("title")]


def names(element: Element) -> set[str]:
    return {title.partition(":")[0] for title in titles(element)}


def test_loads_nothing(tiny_bundle: LoadedBundle, page: Element) -> None:
    html = html_of(tiny_bundle)
    assert "http" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert not [tag for tag in ("link", "img", "iframe", "object") if page.all(tag)]
    assert not [each for each in page.all("script") if each.attributes]
    for element in page.all("a"):
        target = element.attributes["href"].removeprefix("#")
        assert section(page, target).children


def test_ids_are_unique(page: Element) -> None:
    ids = [element.attributes["id"] for tag in ("section", "clippath") for element in page.all(tag)]
    assert len(ids) == len(set(ids)) > 8


def test_names_every_region_buffer_and_op(tiny_bundle: LoadedBundle, page: Element) -> None:
    program, plan = tiny_bundle.program, tiny_bundle.plan
    cards = [card.one("h3").text.strip() for card in section(page, "regions").all("div", "card")]
    assert cards == [region.name for region in plan.regions]
    assert names(section(page, "maps")) >= plan.placements.keys()
    listed = table_rows(section(page, "buffers").one("table"))
    assert [row[0] for row in listed] == [
        place.name
        for region in plan.regions
        for place in sorted(
            (p for p in plan.placements.values() if p.region == region.name),
            key=lambda p: (p.offset, p.first, p.name),
        )
    ]
    assert names(section(page, "timeline")) >= {op.id for op in program.ops}


def test_regions_are_those_of_the_fit_report(tiny_bundle: LoadedBundle, page: Element) -> None:
    fit = report(tiny_bundle, "fit.json")
    cards = section(page, "regions").all("div", "card")
    for card, region in zip(cards, fit["regions"], strict=True):
        rows = {row[0]: value(row[1]) for row in table_rows(card.one("table"))}
        expected = [row for row in fit["rows"] if row["region"] == region["name"]]
        assert rows == {row["category"]: row["bytes"] for row in expected}
        foot = [[cell.words() for cell in row.all("td")][:2] for row in card.one("tfoot").all("tr")]
        assert {name: value(size) for name, size in foot} == {
            key: region[key] for key in ("used", "free", "capacity")
        }
        widths = [rect.number("width") for g in card.all("g") for rect in g.all("rect")]
        bar = widths[: len(rows)]
        assert sum(bar) == pytest.approx(500 * region["used"] / region["capacity"], abs=0.1)
        if len(widths) > len(rows):
            assert sum(widths[len(rows) :]) == pytest.approx(500, abs=0.1)


def test_header_shows_the_figures_of_the_reports(tiny_bundle: LoadedBundle, page: Element) -> None:
    fit = report(tiny_bundle, "fit.json")
    shown = [fact.text for fact in page.one("ul", "facts").all("b")]
    estimated = fit["estimate"]
    assert value(shown[0]) == fit["parameters"]["kept"]
    assert value(shown[1]) == fit["bytes"]["packed"]
    assert value(shown[4]) == estimated["cycles_per_token"]
    assert shown[5] == f"{estimated['tokens_per_second']:,}"
    assert shown[6] == f"{estimated['bound_tokens_per_second']:,}"
    assert str(tiny_bundle.manifest["model_hash"]) in page.one("dl").words()


def test_matrices_are_those_of_the_quantization_report(
    tiny_bundle: LoadedBundle, page: Element
) -> None:
    rows = {row[0]: row for row in table_rows(section(page, "blocks").one("table", "dense"))}
    tensors = report(tiny_bundle, "quantization.json")["tensors"]
    assert rows.keys() == {each["op"] for each in tensors}
    for each in tensors:
        _, shape, bits, _, packing, size, scales, snr, region = rows[each["op"]]
        assert [int(part) for part in re.findall(r"\d+", shape)] == [each["rows"], each["columns"]]
        assert (int(bits), packing, float(snr)) == (each["bits"], each["packing"], each["snr_db"])
        assert (value(size), value(scales)) == (each["bytes"], each["scale_bytes"])
        assert region == tiny_bundle.plan.placements[f"{each['op']}.weight"].region


def test_blocks_sum_to_the_model(tiny_bundle: LoadedBundle, page: Element) -> None:
    rows = table_rows(section(page, "blocks").one("table"))
    assert len(rows) == tiny_bundle.program.shape.layers + 2
    assert sum(value(row[1]) for row in rows) == report(tiny_bundle, "fit.json")["bytes"]["packed"]
    cycles = report(tiny_bundle, "latency.json")["cycles_per_token"]
    assert sum(value(row[5]) for row in rows) == cycles


def test_ops_are_those_of_the_latency_report(tiny_bundle: LoadedBundle, page: Element) -> None:
    latency = report(tiny_bundle, "latency.json")
    dearest, kinds = section(page, "timeline").all("table")
    by_role: dict[str, list[Json]] = {}
    for op in latency["ops"]:
        by_role.setdefault(re.sub(r"^l\d+\.", "", op["id"]), []).append(op)
    sums = {role: sum(op["total_cycles"] for op in ops) for role, ops in by_role.items()}
    rows = table_rows(dearest)
    assert [value(row[2]) for row in rows] == sorted(sums.values(), reverse=True)[:10]
    for name, times, cycles, cores, overhead, dma, engine, bound_by, *_ in rows:
        ops = by_role[name]
        assert (value(times.split()[0]), value(cycles)) == (len(ops), sums[name])
        assert value(cores) == sum(op["compute_cycles"] for op in ops)
        assert value(overhead) == sum(op["overhead_cycles"] for op in ops)
        assert value(dma) == sum(op["dma_cycles"] for op in ops)
        assert value(engine) == sum(op["engine_cycles"] for op in ops)
        assert bound_by.replace(" ", "_") in {op["bound_by"] for op in ops}
    assert {row[0]: value(row[1]) for row in table_rows(kinds)} == latency["by_kind"]
    text = section(page, "assumptions").words()
    assert all(line in text for line in (*latency["not_modelled"], *latency["assumed"]))


def test_costs_are_those_of_the_latency_report(tiny_bundle: LoadedBundle, page: Element) -> None:
    latency, cost = report(tiny_bundle, "latency.json"), section(page, "cost")
    readings, lanes, energy, links = cost.all("table")
    for row in table_rows(readings):
        found = latency["readings"][row[0]]
        assert value(row[1]) == found["cycles_per_token"]
        assert value(row[3]) == found["bound_cycles"]
    assert {row[0]: value(row[1]) for row in table_rows(lanes)} == latency["lanes"]
    parts = {part["name"].replace("_", " "): part for part in latency["energy"]["parts"]}
    for name, low, nominal, high, basis in table_rows(energy):
        part = parts.pop(name)
        spans = [part["low"], part["nominal"], part["high"]]
        assert [float(cell.replace(",", "")) for cell in (low, nominal, high)] == spans
        assert basis == part["basis"]
    assert not parts
    assert {row[0]: [value(cell) for cell in row[1:]] for row in table_rows(links)} == {
        link["link"].replace("_", " "): [
            link[name] for name in ("weights", "kv_cache", "tables", "cycles")
        ]
        for link in latency["links"]
    }
    text = cost.words()
    assert f"{latency['prefill']['cycles']:,} cycles" in text
    assert "167 mW" in text
    curve = cost.one("polyline", "growth-line").attributes["points"].split()
    assert len(curve) == len(latency["curve"])
    last = latency["curve"][-1]
    assert cost.one("text", "end-text").text.startswith(f"{last['cycles']:,} cycles")
    assumed = section(page, "assumptions").words()
    assert all(line in assumed for line in latency["energy"]["assumed"])
    assert all(line in assumed for line in latency["energy"]["not_included"])


def test_kv_cache_grows_as_the_plan_says(tiny_bundle: LoadedBundle, page: Element) -> None:
    shape, growth = tiny_bundle.program.shape, section(page, "growth")
    per_position = shape.layers * shape.kv_heads * 2 * (shape.head_dim + 4)
    assert f"= {per_position:,} bytes per position" in growth.one("p").text
    rows = table_rows(growth.one("table"))
    assert sum(value(row[2]) for row in rows) == per_position
    assert sum(value(row[3]) for row in rows) == per_position * shape.cache_rows
    total = f"{per_position * shape.cache_rows:,} bytes at {shape.cache_rows} positions"
    assert growth.one("text", "end-text").text == total


def test_same_bytes_again() -> None:
    pages = {render_report(source(toy_program(), toy_target())) for _ in range(2)}
    assert len(pages) == 1


def test_names_from_outside_are_escaped() -> None:
    html = render_report(source(toy_program(), toy_target(), title="<b>&\"'"))
    assert "<b>&" not in html
    assert read_page(html).one("h1").text.startswith("<b>&\"'")


def test_without_weights_there_is_no_snr(page: Element, toy_page: Element) -> None:
    assert "SNR" in section(page, "blocks").words()
    assert "SNR" not in section(toy_page, "blocks").words()
    assert "not read" in toy_page.one("dl").words()


def test_what_does_not_fit_has_no_timeline() -> None:
    program, target = toy_program(), toy_target(mram=2048, tile_sram=1024)
    plan = draft_plan(program, target)
    fit = {
        **FIT,
        "fits": False,
        "problems": [{"where": "region x", "found": "7 bytes", "allowed": "6 bytes"}],
        "remedies": [{"text": "a context of at most 3", "option": "--context 3", "changes": [{}]}],
        "off_chip": {
            "bytes": 1234,
            "bytes_per_second": 200_000_000,
            "status": "assumed",
            "ms_per_token": 0.006,
            "exposed_ms_per_token": 0.006,
            "missing": 34,
        },
    }
    page = read_page(render_report(PageSource("toy", "1", program, plan, target, fit, {})))
    assert [each.attributes["id"] for each in page.all("section")].count("timeline") == 0
    text = section(page, "regions").words()
    assert "region x: 7 bytes; allowed: 6 bytes" in text
    assert "a context of at most 3 (--context 3)" in text
    assert "1,234 bytes per token come from outside the chip" in text
    assert "34 of them have no place" in text
    assert "The model fits." not in text
    short = [region for region in plan.regions if region.free < 0]
    lacking = section(page, "regions").all("tr", "alarm")
    assert [value(row.all("td")[1].text) for row in lacking] == [-r.free for r in short] != []


def test_thirty_blocks_stay_small() -> None:
    shape = replace(TOY_SHAPE, layers=30, hidden=128, ffn=352, heads=8, vocab=2048)
    program = toy_program(shape)
    html = render_report(source(program, load_target("siracusa")))
    assert len(html.encode()) < MAX_SIZE
    assert names(section(read_page(html), "timeline")) >= {op.id for op in program.ops}


def test_kinds_of_data_are_told_apart(tiny_bundle: LoadedBundle, page: Element) -> None:
    program = tiny_bundle.program
    classes = {Kind.WEIGHT: "weights", Kind.CONST: "constants", Kind.STATE: "kv_cache"}
    for group in section(page, "maps").all("g"):
        if not group.children or group.children[0].tag != "title":
            continue
        spec = program.tensors.get(group.one("title").text.partition(":")[0])
        if spec is not None and spec.kind in classes:
            assert group.attributes["class"] == classes[spec.kind]


def test_the_off_chip_lane_shows_streams_and_waits() -> None:
    """One box per stream and per wait, with the cycles of the timeline."""
    program = toy_program(tied=False)
    limits = MemoryLimits({}, (Pin("*.weight", "far"),))
    target = limited_target(toy_target(far=32768), limits)
    page = source(program, target)
    lanes, events = section(read_page(render_report(page)), "timeline"), page.timeline
    assert "off chip" in [each.text.strip() for each in lanes.all("text")]
    for lane, cls, mark in ((Lane.OFF_CHIP, "stream", "off chip"), (Lane.WAIT, "wait", "waits")):
        wanted = {f"{event.start:,}" for event in events if event.lane is lane}
        titles = [g.one("title").text for g in lanes.all("g") if is_a(g, cls)]
        assert wanted
        for start in wanted:
            assert any(mark in title and start in title for title in titles), (lane, start)


def is_a(group: Element, name: str) -> bool:
    return name in group.attributes.get("class", "").split()

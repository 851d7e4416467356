"""The fit report of one model as people see it, within 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from memory_planner.engines import OFF_CHIP
from memory_planner.rows import CATEGORIES
from toolchain.fit.shapes import Subject
from toolchain.tables import bar, size_text, stdout

Json = dict[str, Any]
MAX_REGIONS = 5  # side by side
UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def human(size: int) -> str:
    """A size in the largest binary unit that leaves at least 1."""
    for name, unit in UNITS:
        if abs(size) >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"


def rate_text(rate: float) -> str:
    """Tokens per second, four digits."""
    return f"{rate:,.4g}" if rate < 1000 else f"{rate:,.0f}"


def print_subject(subject: Subject) -> None:
    """Which model this is."""
    stdout().print(f"{subject.name} ({subject.source})", soft_wrap=True, markup=False)


def print_fit(report: Json) -> None:
    """Shape and parameters, regions with their use, what the bytes are, and the estimate."""
    console = stdout()
    for line in _summary(report):
        console.print(line, markup=False)
    console.print(_region_table(report))
    console.print(_row_table(report))
    console.print(_placement_table(report["placements"]))
    if report["linears"]:
        console.print(_engine_table(report["linears"]))
    if report["width"]:
        console.print(_width_table(report["width"]))
        console.print("gain: bits saved per group of M inputs, the index taken off")
    for line in _closing(report):
        console.print(line, markup=False)


def print_verdict(report: Json) -> None:
    """One line: whether it fits, and how full the regions are or what is too small."""
    stdout().print(_verdict(report), markup=False, soft_wrap=True)


def _verdict(report: Json) -> str:
    target, problems = report["target"], report["problems"]
    if report["fits"]:
        parts = [f"{r['name']} {100 * r['used'] / r['capacity']:.1f} %" for r in report["regions"]]
        return f"fits {target}: {', '.join(parts)} used"
    first = problems[0]
    if "region" not in first:
        return f"does not fit {target}: {first['where']}: {first['found']}, {first['allowed']}"
    more = f"; {len(problems) - 1} more below" if len(problems) > 1 else ""
    return (
        f"does not fit {target}: region {first['region']}, capacity {first['capacity']:,}, "
        f"need {first['need']:,}, excess {first['excess']:,} bytes{more}"
    )


def _summary(report: Json) -> list[str]:
    shape, parameters, sizes = report["shape"], report["parameters"], report["bytes"]
    dimensions = (
        f"{shape['layers']} blocks, hidden {shape['hidden']:,}, FFN {shape['ffn']:,}, "
        f"{shape['heads']} heads ({shape['kv_heads']} KV) of {shape['head_dim']}, "
        f"vocabulary {shape['vocab']:,}, context {report['context']:,}"
    )
    lines = [dimensions]
    if report["silent"]:
        lines.append(f"left out, since they add 0: {', '.join(report['silent'])}")
    if report["what_if"]:
        changes = ", ".join(f"{key} {_value(v)}" for key, v in report["what_if"].items())
        lines.append(f"what if: {changes}")
    lines += [f"estimate, not yet compilable: {reason}" for reason in report["estimates"]]
    if parameters["given"] != parameters["dense"]:
        lines.append(f"parameters  {parameters['given']:>15,}  of the model as given")
    lines.append(f"parameters  {parameters['dense']:>15,}  dense")
    if parameters["kept"] != parameters["dense"]:
        lines.append(f"            {parameters['kept']:>15,}  kept")
    if parameters["adapters"]:
        lines.append(f"            {parameters['adapters']:>15,}  in adapters, besides")
    for key, what in (
        ("fp16", "in 16 bit"),
        ("gptq_checkpoint", "as a GPTQ checkpoint, embedding in 16 bit"),
        ("packed", "packed by edgec, scales included"),
    ):
        head = "bytes       " if key == "fp16" else " " * 12
        lines.append(f"{head}{sizes[key]:>15,}  {what} ({human(sizes[key])})")
    return lines


def _value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _region_table(report: Json) -> Table:
    table = Table("region", "use", title=f"Memory on {report['target']} (bytes)")
    for title in ("used", "free", "capacity", "%"):
        table.add_column(title, justify="right")
    for region in report["regions"]:
        used, room = region["used"], region["capacity"]
        numbers = (size_text(used), size_text(region["free"]), size_text(room))
        table.add_row(region["name"], bar(used, room), *numbers, f"{100 * used / room:,.1f}")
    return table


def _row_table(report: Json) -> Table:
    """Categories down, regions across, sums at both ends; plain rows for many regions."""
    names = [region["name"] for region in report["regions"]]
    if len(names) > MAX_REGIONS:
        table = Table("region", "category", title="What the bytes are")
        table.add_column("bytes", justify="right")
        for row in report["rows"]:
            table.add_row(row["region"], row["category"], size_text(row["bytes"]))
        return table
    table = Table("bytes of", title="What the bytes are")
    for name in (*names, "all"):
        table.add_column(name, justify="right")
    sizes = {(row["category"], row["region"]): row["bytes"] for row in report["rows"]}
    for category in CATEGORIES:
        cells = {name: sizes.get((category, name), 0) for name in names}
        if any(cells.values()):
            table.add_row(category, *_cells(cells))
    table.add_section()
    table.add_row("used", *_cells({r["name"]: r["used"] for r in report["regions"]}))
    return table


def _cells(sizes: Mapping[str, int]) -> list[str]:
    total = sum(sizes.values())
    return [*(size_text(size) if size else "" for size in sizes.values()), size_text(total)]


def _placement_table(entries: Sequence[Json]) -> Table:
    table = Table("weights", title="Where the weights are")
    for title in ("bytes", "per token"):
        table.add_column(title, justify="right")
    table.add_column("region")
    table.add_column("why")
    for entry in entries:
        sizes = (size_text(entry["bytes"]), size_text(entry["bytes_per_token"]))
        names = (entry["region"], entry["reason"])
        table.add_row(entry["what"], *sizes, *names)
    return table


def _engine_table(entries: Sequence[Json]) -> Table:
    """Where the linears run, and why."""
    table = Table(
        "linears",
        title="What multiplies: arrangement on the engine, packing on the cores (cycles: estimate)",
    )
    table.add_column("", justify="right")
    table.add_column("weights")
    for title in ("engine", "cores"):
        table.add_column(title, justify="right")
    table.add_column("why")
    for entry in entries:
        how = entry["arrangement"] or entry["packing"].removeprefix("nm-sparse ")
        engine = f"{entry['engine_cycles']:,}" if entry["engine_cycles"] else ""
        cycles = (engine, f"{entry['core_cycles']:,}")
        count = str(entry["linears"])
        table.add_row(entry["what"], count, how, *cycles, entry["reason"])
    return table


def _width_table(entries: Sequence[Json]) -> Table:
    table = Table("projection", "N:M", "packing", "index", title="N:M storage")
    for title in ("gain", "dense", "sparse", "saved", "%"):
        table.add_column(title, justify="right")
    for entry in entries:
        table.add_row(
            entry["role"],
            entry["pattern"],
            entry["packing"],
            entry["index"],
            f"{entry['saved_bits_per_group']:+d}",
            size_text(entry["dense_bytes"]),
            size_text(entry["sparse_bytes"]),
            size_text(entry["saved_bytes"]),
            f"{100 * entry['saved_bytes'] / entry['dense_bytes']:.1f}",
        )
    return table


def _closing(report: Json) -> list[str]:
    cache, estimate, off_chip = report["kv_cache"], report["estimate"], report["off_chip"]
    per_position = size_text(report["kv_cache_bytes_per_position"])
    lines = [
        f"KV cache: {cache['formula']} = {per_position} bytes per position",
        f"          {size_text(cache['bytes'])} bytes at context {report['context']:,}",
    ]
    for entry in report["width"]:
        if entry["whole_tail_inputs"]:
            lines.append(
                f"{entry['role']}: the last {entry['whole_tail_inputs']} inputs are less than a "
                f"group of {entry['pattern']} and all stay"
            )
    unpaid = {
        f"{e['pattern']} in {e['packing']}s does not pay: {e['reason']}; stored dense"
        for e in report["width"]
        if not e["pays"]
    }
    lines += sorted(unpaid)
    lines += [
        f"{e['role']} ({e['matrices']}): {e['pattern']}, stored {e['stored']}, {e['reason']}"
        for e in report["width"]
        if e["pays"] and e["reason"]
    ]
    if off_chip["bytes"]:
        lines += _off_chip_lines(off_chip) + _streamed_lines(report["linears"])
    lines.append(
        f"estimate at position {estimate['position']:,}: {estimate['cycles_per_token']:,} cycles "
        f"per token{' on chip' if off_chip['missing'] else ''}, "
        f"{rate_text(estimate['tokens_per_second'])} tokens/s; in the conservative reading "
        f"{rate_text(estimate['conservative_tokens_per_second'])}"
    )
    prefill = estimate["prefill"]
    lines.append(
        f"a prompt of {prefill['tokens']:,} tokens: {prefill['cycles']:,} cycles"
        f"{' on chip' if off_chip['missing'] else ''}, "
        f"{rate_text(prefill['tokens_per_second'])} tokens/s, {prefill['method']}"
    )
    energy = estimate["energy_uj_per_token"]
    if energy:
        lines.append(
            f"energy: about {energy['nominal']:,g} uJ per token"
            f"{' on chip' if off_chip['missing'] else ''}, {energy['low']:,g} to "
            f"{energy['high']:,g} (assumed constants)"
        )
    lines.append(
        f"no schedule beats {rate_text(estimate['bound_tokens_per_second'])} tokens/s "
        "(the bandwidth of the memories)"
    )
    return lines


def _streamed_lines(linears: Sequence[Json]) -> list[str]:
    """Why linears that stream are not on the engine."""
    streamed = [entry for entry in linears if entry["reason"].startswith(OFF_CHIP)]
    if not streamed:
        return []
    count, place = sum(e["linears"] for e in streamed), streamed[0]["reason"].rpartition(" ")[2]
    why = f"stay on the cores: the engine does not read {place}, where they arrive"
    return [f"          {count} linears {why}"]


def _off_chip_lines(off_chip: Json) -> list[str]:
    """Bytes and time of the stream, and of what has no place at all."""
    rate = off_chip["bytes_per_second"] // 10**6
    taken = f"{off_chip['bytes']:,} bytes per token, {off_chip['ms_per_token']:,.1f} ms"
    if off_chip["missing"]:
        rest = f"{off_chip['missing']:,} of them have no place: this is no plan"
    else:
        waits = f"{off_chip['exposed_ms_per_token']:,.1f} ms"
        rest = f"of that, the cores wait {waits} for blocks and head; the rest overlaps"
        rest += " with their work, or is the embedding's record"
    return [f"off chip: {taken} at an assumed {rate} MB/s", f"          {rest}"]

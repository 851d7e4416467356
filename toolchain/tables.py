"""What people see: tables and bars on a terminal, plain text in a pipe."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

Json = dict[str, Any]
BAR_WIDTH = 20


def stdout() -> Console:
    """Colour only on a terminal; a pipe gets lines of any width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=110)


def stderr() -> Console:
    """Where progress goes."""
    return Console(stderr=True)


def size_text(size: int) -> str:
    """Bytes with thousands separators."""
    return f"{size:,}"


def bar(used: int, capacity: int) -> str:
    """A bar of `BAR_WIDTH` characters; anything above nothing shows."""
    filled = min(BAR_WIDTH, -(-used * BAR_WIDTH // capacity)) if capacity else 0
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def print_latency(report: Json) -> None:
    """The decode estimate and what it is made of."""
    console = stdout()
    table = Table("ops", title=f"Estimate: decode at position {report['position']}")
    table.add_column("cycles", justify="right")
    table.add_column("%", justify="right")
    total = report["cycles_per_token"]
    for kind, cycles in report["by_kind"].items():
        table.add_row(kind, f"{cycles:,}", f"{100 * cycles / total:.1f}")
    table.add_section()
    table.add_row("one token", f"{total:,}", "100.0")
    console.print(table)
    console.print(
        f"about {report['tokens_per_second']:,.1f} tokens/s at the target's clock; "
        f"bandwidth bound {report['bound_tokens_per_second']:,.1f} tokens/s"
    )


def print_compiled(summary: Json) -> None:
    """What `edgec compile` did, below the fit report."""
    print_latency(summary["latency"])
    stdout().print(
        f"Compiled {summary['model']} into {summary['output']} ({summary['files']} files)",
        soft_wrap=True,
    )


def print_text(text: str) -> None:
    """A piece of generated text, as it arrives."""
    stdout().print(text, end="", markup=False, soft_wrap=True)


def print_sizes(report: Json) -> None:
    """Code and stacks of each program against their reservations."""
    console = stdout()
    table = Table("program", "what", title=f"PORT={report['port']}, built by {report['compiler']}")
    table.add_column("bytes", justify="right")
    table.add_column("reserved", justify="right")
    for use in (*report["memories"], *report["stacks"]):
        size, reserved = size_text(use["used"]), size_text(use["reserved"])
        table.add_row(use["program"], use["what"], size, reserved)
    console.print(table)
    console.print("Every blob and arena lies at its planned address.")
    if not report["stacks"]:
        console.print("Stacks are not proven, the code of the blocks is not known: that needs gcc.")
        return
    blocks, cache = report["blocks"], report["instruction_cache"]
    over = blocks["hot"] - cache
    verdict = f"{over:,} more than" if over > 0 else "no more than"
    console.print(
        f"Blocks run {blocks['hot']:,} bytes of code in every token, {verdict} the {cache:,} of "
        f"the instruction cache; up to {blocks['rare']:,} more in rare cases."
    )


def print_simulation(report: Json) -> None:
    """The latency estimate in one line, below the prompt and its continuation."""
    console = stdout()
    console.print()
    console.print(
        f"estimate at position {report['position']:,}: {report['cycles_per_token']:,} cycles, "
        f"{report['tokens_per_second']:,.1f} tokens/s at the target's clock; "
        f"bandwidth bound {report['bound_tokens_per_second']:,.1f} tokens/s",
        soft_wrap=True,
    )
    console.print(f"simulated at {report['simulated_tokens_per_second']:,.1f} tokens/s here")


def _prompts(prompts: Json | None) -> str:
    """Tokens of a prompt, and how many ops were equal in prompts."""
    if prompts is None:
        return "not run"
    return f"{prompts['tokens']}: {prompts['ops_equal']:,} of {prompts['ops_compared']:,} equal"


def print_verified(report: Json) -> None:
    """One line per run, then the first divergence of each run that has one."""
    console = stdout()
    title = f"{report['tokens']} tokens, every tensor of every op against the simulator"
    table = Table("runner", title=title)
    columns = ("cores", "ops compared", "ops equal", "in prompts of", "instructions per token")
    for column in columns:
        table.add_column(column, justify="right")
    for run in report["runs"]:
        instructions = run["instructions_per_token"]
        table.add_row(
            f"{run['runner']} ({run['simulator'] or run['compiler']})",
            str(run["cores"]),
            f"{run['ops_compared']:,}",
            f"{run['ops_equal']:,}",
            _prompts(run["prompts"]),
            "not counted" if instructions is None else f"{instructions:,.0f}",
        )
    console.print(table)
    for run in report["runs"]:
        for found in (run, run["prompts"] or {}):
            if found.get("first_divergence"):
                who = f"{run['runner']}, {run['cores']} cores"
                print_divergence(who, found["first_divergence"])
    context = report["context"]
    if context["skipped"]:
        console.print(f"not run to the end of the context: {context['skipped']}")
    else:
        console.print(f"all {context['positions']} positions filled, one step more refused")
    console.print("all equal" if report["passed"] else "NOT equal")


def print_comparison(comparison: Json) -> None:
    """Result of `edgec compare`."""
    if not comparison["ops_compared"]:
        stdout().print("no traced op in this dump: write it with `make tracer`")
    if comparison["first_failed_step"]:
        failed = comparison["first_failed_step"]
        stdout().print(
            f"step {failed['step']} ended with status {failed['status']} (see the bundle's header)"
        )
    stdout().print(
        f"{comparison['ops_equal']:,} of {comparison['ops_compared']:,} ops equal, "
        f"{comparison['missing']:,} expected tensors not in the dump, "
        f"{comparison['unexpected']:,} unexpected"
    )
    if comparison["first_divergence"]:
        print_divergence("dump", comparison["first_divergence"])


def print_divergence(where: str, first: Json) -> None:
    """The first tensor that differs."""
    never = " (never written: it holds the fill pattern)" if first["never_written"] else ""
    stdout().print(
        f"{where}: first divergence in step {first['step']}, op {first['op']}, "
        f"tensor {first['tensor']}: {first['reason']}{never}",
        soft_wrap=True,
        markup=False,
    )


def print_targets(targets: list[Json]) -> None:
    """Known SoCs and their regions."""
    table = Table("target", "description", "region")
    for title in ("base", "size"):
        table.add_column(title, justify="right")
    for target in targets:
        head = [target["name"], f"{target['description']}"]
        for region in target["regions"]:
            table.add_row(
                *head, region["name"], f"{region['base']:#010x}", size_text(region["size"])
            )
            head = ["", ""]
        table.add_section()
    stdout().print(table)

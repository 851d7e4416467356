"""`edgec sizes`: builds the programs of a chip's own port and holds them against the plan.

Three questions: does every blob and arena lie at its planned address, do code, constants and
variables fit the bytes that the target reserves for them, and does the worst stack of the
controller and of a cluster core stay within its reservation. Nothing is run. Beside them stands how
much code the blocks run (toolchain/firmware/hot_code.py), for it is fetched again in every block
when the instruction cache is smaller.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codegen.bundle_read import load_bundle
from codegen.chip_link import ChipLinkView, chip_link_view, left_out
from codegen.prefix import apply_prefix
from memory_planner.ports import CHIP_PORTS
from memory_planner.target import TargetSpec
from toolchain.c_tools import Build, Compiler, find_rv32_compiler, find_rv32_gcc, run_make
from toolchain.firmware.call_graph import (
    Bound,
    CallGraph,
    function_of,
    reachable,
    read_call_graph,
    resolve,
    stack_bound,
)
from toolchain.firmware.elf import Image, read_image
from toolchain.firmware.hot_code import HotCode, hot_code, rare_functions
from toolchain.model.errors import ConfigError, DoesNotFitError, Problem, ToolError

PROGRAMS = ("runner", "tracer", "checker", "profiler")
PORT = "siracusa"  # the one port of a chip that the bundle's Makefile builds
PROGRAM_SECTIONS = (".text", ".rodata", ".data", ".bss")
# Calls through pointers: the kernel of a linear, those of an engine's, the entry of a team.
POINTERS = {
    "*/edgec_linear.c:*": ("edgec_linear_s*",),
    "edgec_linear": ("edgec_linear_s*",),
    "*/edgec_linear_batch.c:*": ("edgec_linear_s*",),
    "edgec_linear_batch": ("edgec_linear_s*",),
    "*/edgec_engine_linear_run.c:*": ("edgec_engine_stage_*", "edgec_engine_rows_*"),
    "edgec_engine_linear_run": ("edgec_engine_stage_*", "edgec_engine_rows_*"),
    "*edgec_finish_generally*": ("edgec_engine_row_*",),
    "*edgec_general_rows*": ("edgec_engine_row_*",),
    "edgec_cluster_core": ("run",),
}
# Assembly of the port, and functions of libgcc that use no stack.
ASSEMBLY = ("_start", "edgec_cluster_entry", "trap_entry", "memcpy", "memset")
LIBGCC = ("__ashldi3", "__ashrdi3", "__lshrdi3", "__muldi3", "__mulsi3")
WORKER = "edgec_cluster_core"
ENTRIES = {"controller": "main", "cluster core": WORKER}
KEPT = ".edgec_sizes"  # section of an object: as long as what a worker keeps below its stack
# The loop over the blocks; where gcc has inlined it, the whole token.
BLOCKS = ("all_blocks", "edgec_step")
# The engine's feeder beside it: its inner loop alone, unless blocks tell it of jobs.
BESIDE, PLANNED = "edgec_engine_feed", "feed_planned"
TELLING = ("edgec_engine_prepare", "edgec_engine_plan")
TRAP = "edgec_trap"  # a core enters it from anywhere, once, on the stack that it has


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes of one kind, against what the target reserves for them."""

    program: str
    what: str
    used: int
    reserved: int
    path: tuple[str, ...] = ()  # of a stack: the calls of the worst case


@dataclass(frozen=True, slots=True)
class SizesReport:
    """What one build takes; gcc alone tells `stacks` and `blocks`."""

    port: str
    compiler: str
    memories: tuple[Use, ...]
    stacks: tuple[Use, ...]
    blocks: HotCode | None  # code that they run
    instruction_cache: int  # bytes that the team shares

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def check_sizes(build_dir: Path, compiler: Compiler | None = None) -> SizesReport:
    """Build all programs for the chip and compare them with the plan.

    Raises ConfigError when the bundle has no port of a chip, ToolError when no compiler is found or
    the build or link fails, DoesNotFitError naming every section that is elsewhere or too large
    and every stack that may overflow.
    """
    bundle = load_bundle(build_dir)
    link = chip_link_view(bundle.plan, bundle.target)
    if link is None or PORT not in bundle.target.ports:
        found = left_out(bundle.plan, bundle.target) or f"target {bundle.target.name} declares none"
        raise ConfigError("no port of the chip", [Problem("ports", found, f"port {PORT}")])
    compiler = compiler or find_rv32_gcc() or find_rv32_compiler()
    with tempfile.TemporaryDirectory(prefix="edgec-sizes-") as scratch:
        out = Path(scratch)
        is_gcc = "gcc" in Path(compiler.command[0]).name
        flags = ("-fcallgraph-info=su",) if is_gcc else ()
        run_make(Build(bundle.directory, out, PORT, compiler, PROGRAMS, flags))
        images = {p: read_image(out / f"{bundle.prefix}_{p}") for p in PROGRAMS}
        memories = tuple(_program_use(n, image, bundle.target) for n, image in images.items())
        graphs = {p: _graph(bundle.prefix, out, p) for p in PROGRAMS} if is_gcc else {}
        kept = {p: _kept(_model(out, p, bundle.prefix)) for p in PROGRAMS}
        stacks = _stacks(bundle.prefix, link, graphs, images, kept) if is_gcc else ()
        blocks = blocks_of(bundle.prefix, out, images["runner"]) if is_gcc else None
    problems = [problem for n, image in images.items() for problem in _misplaced(n, image, link)]
    problems += [
        Problem(
            f"{use.program}: {use.what}",
            f"{use.used} bytes" + (f" ({' > '.join(use.path)})" if use.path else ""),
            f"at most {use.reserved}",
        )
        for use in (*memories, *stacks)
        if use.used > use.reserved
    ]
    if problems:
        raise DoesNotFitError(f"the programs for {PORT} are not as planned", problems)
    cache = CHIP_PORTS[PORT].instruction_cache
    return SizesReport(PORT, compiler.name, memories, stacks, blocks, cache)


def _misplaced(program: str, image: Image, link: ChipLinkView) -> list[Problem]:
    found = {section.name: section for section in image.sections}
    problems = []
    for planned in link.sections:
        section = found.get(planned.name)
        text = f"{section.size} bytes at 0x{section.address:08X}" if section else "nothing"
        allowed = f"{planned.size} bytes at {planned.address}"
        if text != allowed:
            problems.append(Problem(f"{program}: {planned.name}", text, allowed))
    return problems


def _program_use(program: str, image: Image, target: TargetSpec) -> Use:
    used = sum(section.size for section in image.sections if section.name in PROGRAM_SECTIONS)
    reserved = sum(region.reserved_for("code") for region in target.regions)
    return Use(program, "code, constants and variables", used, reserved)


def _graph(prefix: str, out: Path, program: str) -> CallGraph:
    """Who calls whom in a program, pointers resolved."""
    pointers = {
        apply_prefix(key, prefix): tuple(apply_prefix(name, prefix) for name in names)
        for key, names in POINTERS.items()
    }
    return resolve(read_call_graph(_objects(out, program, prefix)), pointers)


def _stacks(
    prefix: str,
    link: ChipLinkView,
    graphs: dict[str, CallGraph],
    images: dict[str, Image],
    kept: dict[str, int],
) -> tuple[Use, ...]:
    reserved = {"controller": link.controller_stack, "cluster core": link.core_stack}
    leaves = {apply_prefix(name, prefix): 0 for name in (*ASSEMBLY, *LIBGCC)}
    uses = []
    for program, graph in graphs.items():
        _check_complete(program, images[program], graph, leaves)
        trap = stack_bound(graph, apply_prefix(TRAP, prefix), leaves)
        for who, entry in ENTRIES.items():
            bound = stack_bound(graph, apply_prefix(entry, prefix), leaves)
            size = bound.size + trap.size + (kept[program] if entry == WORKER else 0)
            total = Bound(size, (*bound.path, *trap.path))
            uses.append(Use(program, f"stack of a {who}", total.size, reserved[who], total.path))
    return tuple(uses)


def _kept(model: Path) -> int:
    """Bytes at the lower end of each worker's stack that the model keeps from token to token."""
    return sum(each.size for each in read_image(model).sections if each.name == KEPT)


def blocks_of(prefix: str, out: Path, image: Image) -> HotCode:
    """The code that the blocks of a runner run, which gcc has built in `out`."""
    graph = _graph(prefix, out, "runner")
    known = {function_of(title) for title in graph.frames}
    names = [name for name in (apply_prefix(b, prefix) for b in BLOCKS) if name in known][:1]
    called = {function_of(title) for title in reachable(graph, names[0])}
    beside = PLANNED if called.isdisjoint(apply_prefix(a, prefix) for a in TELLING) else BESIDE
    names += [name for name in (apply_prefix(beside, prefix),) if name in known]
    rare = rare_functions(path.with_suffix(".o") for path in _objects(out, "runner", prefix))
    return hot_code(graph, image, rare, names, CHIP_PORTS[PORT].instruction_line)


def _objects(out: Path, program: str, prefix: str) -> Sequence[Path]:
    """The graphs of the objects that the Makefile links into a program."""
    mains = {"runner": "main", "tracer": "main", "checker": "check", "profiler": "profile"}
    other = {f"{name}.c.ci" for name in mains.values()} | {f"{prefix}_model.c.ci"}
    files = [path for path in (out / "obj").rglob("*.ci") if path.name not in other]
    if program in {"runner", "tracer"}:
        files = [path for path in files if path.name != f"{prefix}_golden.c.ci"]
    files.append(_model(out, program, prefix).with_suffix(".ci"))
    folder = "trace" if program == "tracer" else "obj"
    files.append(out / folder / "test" / f"{mains[program]}.c.ci")
    return sorted(files)


def _model(out: Path, program: str, prefix: str) -> Path:
    """The object of the generated code in a program."""
    folder = {"runner": "obj", "profiler": "time"}.get(program, "trace")
    return out / folder / "src" / f"{prefix}_model.c.o"


def _check_complete(program: str, image: Image, graph: CallGraph, leaves: dict[str, int]) -> None:
    """Every function of the image has a frame that is known."""
    known = {function_of(title) for title in graph.frames} | set(leaves)
    problems = [
        Problem(f"{program}: {name}", "a function of unknown stack", "one that gcc compiled")
        for name in sorted(image.functions)
        if name.split(".", 1)[0] not in known
    ]
    if problems:
        raise ToolError("the stack has no bound", problems)

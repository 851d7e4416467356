"""ModelView -> the text files of a bundle: generated C, runtime, build files, README.

Templates only print: undefined names are errors, and every value is computed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from codegen.chip_link import chip_link_view, left_out, usable_ports
from codegen.fast_tables import fast_tables
from codegen.layout import crc_constant, model_view
from codegen.prefix import apply_prefix, check_prefix
from codegen.runtime import BUILT_PORTS, ENGINE_MODEL, PORTS, runtime_files
from codegen.serialize import graph_hash
from memory_planner.plan import Plan
from memory_planner.target import TargetSpec
from toolchain.model.program import Program

# Template -> bundle path, with edgec_ for the prefix. The C is rendered first: it decides which
# runtime sources the build files list.
CODE_TEMPLATES = {
    "header.h.j2": "include/edgec_model.h",
    "sections.h.j2": "include/edgec_sections.h",
    "linked.h.j2": "include/edgec_linked.h",
    "model.c.j2": "src/edgec_model.c",
    "linked.c.j2": "src/edgec_linked.c",
    "weights.S.j2": "weights.S",
    "arenas.S.j2": "arenas.S",
    "sections.ld.j2": "sections.ld",
    "selftest.h.j2": "test/edgec_selftest.h",
    "selftest.c.j2": "test/edgec_selftest.c",
    "selftest_data.S.j2": "test/edgec_selftest_data.S",
    "trace.h.j2": "test/edgec_trace.h",
    "golden_data.S.j2": "test/edgec_golden_data.S",
    "programs.h.j2": "test/edgec_programs.h",
    "programs.c.j2": "test/edgec_programs.c",
    "golden.c.j2": "test/edgec_golden.c",
    "main.c.j2": "test/main.c",
    "check.c.j2": "test/check.c",
    "profile.c.j2": "test/profile.c",
}
BUILD_TEMPLATES = {
    "Makefile.j2": "Makefile",
    "CMakeLists.txt.j2": "CMakeLists.txt",
    "files.txt.j2": "files.txt",
    "README.md.j2": "README.md",
}
CHIP_TEMPLATES = {"link_siracusa.ld.j2": "runtime/port/siracusa/link.ld"}
OPTIONAL = ("arenas.S", "src/edgec_linked.c", "weights.S")
# main functions of the test programs, and what only some of them need
MAINS = {"runner": "test/main.c", "checker": "test/check.c", "profiler": "test/profile.c"}
GOLDEN = ("test/edgec_golden.c", "test/edgec_golden_data.S")
SELFTEST = ("test/edgec_selftest.c", "test/edgec_selftest_data.S")


@dataclass(frozen=True, slots=True)
class CodeOptions:
    """What the generated code says of itself."""

    prefix: str  # of every external symbol
    version: str  # of edgec
    golden_steps: int  # tokens of the self-test
    prompt_start: tuple[int, ...] = ()  # ids that the tokenizer puts in front of every text
    stop_tokens: tuple[int, ...] = ()  # ids that end a text


def render_code(
    program: Program, plan: Plan, target: TargetSpec, options: CodeOptions
) -> dict[str, str]:
    """Bundle path -> text of everything that is compiled or read by a firmware developer.

    Raises ConfigError when the prefix cannot be used.
    """
    check_prefix(options.prefix)
    graph = graph_hash(program, plan)
    model = model_view(program, plan, target, graph)
    values: dict[str, Any] = {
        "model": model,
        "fast": fast_tables(model, target),
        "prefix": options.prefix,
        "version": options.version,
        "target": plan.target,
        "target_crc": crc_constant(plan.target),
        "cores": plan.cores,
        "golden_steps": options.golden_steps,
        "ops": len(program.ops),
        "prompt_start": _ids("Every text begins with", options.prompt_start),
        "stop_tokens": _ids("Generation ends at", options.stop_tokens),
        "graph_hash": graph.hex(),
    }
    files = {path: _render(name, values) for name, path in CODE_TEMPLATES.items()}
    ports = usable_ports(plan, target)
    generated = [text for path, text in files.items() if path.endswith(".c")]
    files.update(runtime_files(generated, ports, program.arithmetic))
    if ports:
        values["link"] = chip_link_view(plan, target)
        files.update({path: _render(n, values) for n, path in CHIP_TEMPLATES.items()})
    lists = _file_lists(files, ports) | {"left_out": left_out(plan, target)}
    files.update({path: _render(n, values | lists) for n, path in BUILD_TEMPLATES.items()})
    return {
        _path(path, options.prefix): apply_prefix(text, options.prefix)
        for path, text in files.items()
    }


def _ids(what: str, ids: tuple[int, ...]) -> str:
    return f"{what} {', '.join(map(str, ids)) or 'no special id'}."


def _path(path: str, prefix: str) -> str:
    if path == "include/edgec_model.h":
        return f"include/{prefix}.h"
    folder, _, name = path.rpartition("/")
    return f"{folder}/{apply_prefix(name, prefix)}" if folder else path


def _file_lists(files: dict[str, str], chip_ports: tuple[str, ...]) -> dict[str, Any]:
    sources = sorted(path for path in files if path.endswith((".c", ".S")))
    ports = {
        port: [
            path
            for path in sources
            if path.startswith(f"runtime/port/{port}/")
            or (port in PORTS and path.startswith(ENGINE_MODEL))
        ]
        for port in (*PORTS, *chip_ports)
    }
    outside = ("test/", "runtime/port/", ENGINE_MODEL)
    return {
        "library": [path for path in sources if not path.startswith(outside)],
        "tests": [
            path
            for path in sources
            if path.startswith("test/") and path not in (*MAINS.values(), *GOLDEN)
        ],
        "mains": MAINS,
        "golden": GOLDEN,
        "ports": {port: files for port, files in ports.items() if port in (*PORTS, *BUILT_PORTS)},
        "all_ports": ports,
        "linkers": {
            port: f"runtime/port/{port}/link.ld"
            for port in ports
            if f"runtime/port/{port}/link.ld" in files
        },
        "optional": list(OPTIONAL),
        "selftest": list(SELFTEST),
    }


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("templates", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # C, not HTML
    )


def _render(name: str, values: dict[str, Any]) -> str:
    return _environment().get_template(name).render(values)

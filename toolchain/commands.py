"""What each command does: call the pipeline, then print a table or one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from toolchain import tables
from toolchain.cli import print_json
from toolchain.fit.options import BUNDLED
from toolchain.fit.tables import print_fit, print_verdict
from toolchain.model.errors import BundleError, ConfigError, MismatchError, Problem
from toolchain.options import (
    BUNDLED_NAME,
    CompileRequest,
    ProfileRequest,
    SimulateRequest,
    bundled_model,
)

if TYPE_CHECKING:
    from toolchain.fit.command import Analysis

Json = dict[str, Any]


def progress_bar() -> Bar:
    """A spinner with the current step on stderr, gone when the work is done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Bar(*columns, console=tables.stderr(), transient=True)


def run_compile(request: CompileRequest, as_json: bool) -> None:
    """Compile and write the bundle; an existing bundle is replaced only when all went well."""
    from codegen.bundle_write import check_destination, write_bundle
    from codegen.prefix import check_prefix
    from toolchain.pipeline import CompileOptions, compile_model

    check_prefix(request.prefix)
    check_destination(request.output)
    options = CompileOptions(
        request.model.quant,
        request.model.context,
        request.model.modes,
        request.prefix,
        request.golden_steps,
        BUNDLED_NAME if request.model_dir is None else None,
        request.model.limits,
        request.model.engine,
        request.model.arithmetic,
        request.model.batch,
    )
    model_dir = request.model_dir or bundled_model()
    with progress_bar() as bar:
        task = bar.add_task("compiling", total=None)
        compiled = compile_model(
            model_dir,
            request.model.target,
            options,
            lambda step: bar.update(task, description=step),
        )
        write_bundle(compiled.bundle, request.output)
    summary: Json = {
        "model": BUNDLED_NAME if request.model_dir is None else request.model_dir.name,
        "output": str(request.output),
        "files": len(compiled.bundle.files),
        "fit": compiled.reports["fit.json"],
        "latency": compiled.reports["latency.json"],
    }
    if as_json:
        print_json(summary)
    else:
        print_verdict(summary["fit"])
        print_fit(summary["fit"])
        tables.print_compiled(summary)


def write_fit_page(path: Path, analysis: Analysis) -> str:
    """Draw what `edgec fit` reports and say what was written; ConfigError without a place."""
    from toolchain.model.quant_settings import effective_settings
    from toolchain.report.pages import fit_page
    from toolchain.report.source import PageSource

    design, name = analysis.outcome.design, analysis.subject.name
    settings = effective_settings(design.shape, design.quant)
    source = PageSource(
        title=BUNDLED_NAME if name == BUNDLED else name,
        version=version("edgec"),
        program=analysis.outcome.program,
        plan=analysis.outcome.plan,
        target=analysis.target,
        fit=analysis.report,
        bits={f"{op_id}.weight": setting.bits for op_id, setting in settings.items()},
    )
    page = fit_page(source)
    try:
        return f"wrote {path} ({path.write_bytes(page.encode()):,} bytes)"
    except OSError as error:
        problem = Problem("--html", str(path), f"a file that can be written: {error.strerror}")
        raise ConfigError("the page cannot be written", [problem]) from error


def run_simulate(request: SimulateRequest, as_json: bool) -> None:
    """Stream the text that the firmware would write, then the latency estimate."""
    from toolchain.simulate import Simulation

    simulation = Simulation.load(request.build)
    tokens: list[int] = []
    pieces: list[str] = []
    started = perf_counter()
    for token, text in simulation.generate(request):
        started = started if tokens else perf_counter()  # from the first token on
        if not as_json:  # the prompt now that it was accepted
            tables.print_text(text if tokens else request.prompt + text)
        tokens.append(token)
        pieces.append(text)
    report = simulation.report(request.prompt, "".join(pieces), tokens)
    elapsed = perf_counter() - started
    report["simulated_tokens_per_second"] = round((len(tokens) - 1) / elapsed, 1) if tokens else 0.0
    if as_json:
        print_json(report)
    else:
        tables.print_simulation(report)


def run_profile(request: ProfileRequest, as_json: bool) -> None:
    """Print where the time and the energy of a bundle's tokens go."""
    from codegen.bundle_read import load_bundle
    from sim.profile import profile
    from toolchain.profile_tables import print_profile

    bundle = load_bundle(request.build)
    most = bundle.program.shape.context
    length = most // 2 + 1 if request.context is None else request.context
    if not 1 <= length <= most:
        problem = Problem("--context", str(length), f"1..{most}, the context of the bundle")
        raise ConfigError("some options cannot be used", [problem])
    cost = profile(bundle.program, bundle.plan, bundle.target, length - 1, request.reading)
    if as_json:
        print_json(cost.to_dict())
    else:
        print_profile(cost)


def run_verify(build: Path, runners: tuple[str, ...], steps: int | None, as_json: bool) -> None:
    """Build and run the bundle's C; MismatchError when any tensor differs."""
    from toolchain.verify import VerifyOptions, verify_bundle

    with progress_bar() as bar:
        task = bar.add_task("verifying", total=None)
        report = verify_bundle(
            build,
            runners,
            VerifyOptions(steps=steps),
            lambda step: bar.update(task, description=step),
        )
    if as_json:
        print_json(report.to_dict())
    else:
        tables.print_verified(report.to_dict())
    if not report.passed:
        raise SystemExit(MismatchError.exit_code)


def run_compare(dump_file: Path, golden: Path, partial: bool, as_json: bool) -> None:
    """Print the first divergence; exit code 6 unless all that must be there is there and equal."""
    from sim.compare import compare_dump
    from sim.dump import read_dump
    from sim.golden import read_golden

    dump = read_dump(_read(dump_file), str(dump_file))
    result = compare_dump(dump, read_golden(golden))
    failed = next((asdict(step) for step in dump.steps if step.status), None)
    whole = result.ops_compared > 0 and (partial or result.missing == 0)
    equal = whole and failed is None and result.first_divergence is None
    comparison = {"equal": equal, **asdict(result), "first_failed_step": failed}
    if as_json:
        print_json(comparison)
    else:
        tables.print_comparison(comparison)
    if not equal:
        raise SystemExit(MismatchError.exit_code)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def run_targets(as_json: bool) -> None:
    """All packaged targets with their regions."""
    from memory_planner.target_file import list_targets, load_target

    found = []
    for name in list_targets():
        target = load_target(name)
        regions = [{"name": r.name, "base": r.base, "size": r.size} for r in target.regions]
        found.append(
            {
                "name": target.name,
                "description": target.description,
                "cores": target.cores,
                "clock_hz": target.clock_hz,
                "regions": regions,
            }
        )
    if as_json:
        print_json({"targets": found})
    else:
        tables.print_targets(found)

"""The whole product in one place: a checkpoint directory becomes a bundle in memory.

Every arrow is one public function on frozen values. Nothing is written here: the caller writes
the bundle, so a failed compile leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from codegen.blob import build_blobs
from codegen.bundle import Bundle, BundleParts, emit_bundle
from codegen.golden import build_golden
from codegen.serialize import graph_hash
from memory_planner.engines import Assignment, EngineChoice
from memory_planner.limits import NO_LIMITS, MemoryLimits, limited_target
from memory_planner.plan import Plan
from memory_planner.planner import choose_engines, plan_memory
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target, read_target_text
from sim.machine import run_steps
from sim.profile import Profile, profile
from sim.timeline import decode_timeline
from toolchain.calibrate import (
    CALIBRATION_TOKENS,
    check_ranges,
    fit_residual_bits,
    golden_steps,
    sample_tokens,
)
from toolchain.fit.design import Design
from toolchain.fit.misfit import explain_misfit
from toolchain.fit.planning import Outcome
from toolchain.fit.speed import speed_of
from toolchain.fit.storage import choose_storage
from toolchain.model.checkpoint import FloatModel, load_model
from toolchain.model.coded_settings import with_codes
from toolchain.model.errors import DoesNotFitError
from toolchain.model.lora import base_directory
from toolchain.model.lower import lower_model
from toolchain.model.outline import LowerConfig, check_lower_config, outline_program
from toolchain.model.program import ActMode, Arithmetic, Program
from toolchain.model.quantize import QuantConfig, quantize_model
from toolchain.model.sparsity import find_patterns
from toolchain.model.tokenizer import load_tokenizer
from toolchain.model.weight_facts import facts_of
from toolchain.provenance import checkpoint_hash, extra_files, settings_of, weight_bits
from toolchain.report import build_reports
from toolchain.report.pages import report_pages
from toolchain.report.source import PageSource

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What the user chose; everything else follows from the checkpoint and the target."""

    quant: QuantConfig = field(default_factory=QuantConfig)
    context: int | None = None  # None: what the model was trained with
    modes: Mapping[str, ActMode] = field(default_factory=dict)
    prefix: str = "edgec"
    golden_steps: int | None = None  # None: 16, or the context if that is shorter
    title: str | None = None  # of the report's page; None: the name of the directory
    limits: MemoryLimits = NO_LIMITS
    engine: EngineChoice = EngineChoice.AUTO
    arithmetic: Arithmetic = Arithmetic.PRECISE
    batch: int | None = None  # tokens of a prompt that go together; None: what pays


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """The bundle and its reports by file name."""

    bundle: Bundle
    reports: Mapping[str, Any]


def compile_model(
    model_dir: Path, target_name: str, options: CompileOptions, progress: Progress
) -> Compiled:
    """Checkpoint -> integers -> program -> plan -> blobs -> golden vectors -> bundle.

    Raises an EdgecError of the stage that refuses: unsupported model, broken checkpoint, option
    without effect, overflow bound, or a model that does not fit.
    """
    target = limited_target(load_target(target_name), options.limits)
    progress("reading the checkpoint")
    model = load_model(model_dir)
    options = replace(options, quant=with_codes(model, options.quant))
    tokenizer = load_tokenizer(base_directory(model_dir))
    trained = model.config.max_position_embeddings
    context = trained if options.context is None else options.context
    config = LowerConfig(context, options.modes, arithmetic=options.arithmetic)
    check_lower_config(model.config, config)
    steps = golden_steps(options.golden_steps, context)
    progress("looking for N:M patterns")
    patterns = find_patterns(model, options.quant)
    progress("planning memory")  # what does not fit is refused before the work
    design = Design(
        model.config,
        options.quant,
        context,
        options.modes,
        patterns=patterns,
        engine=options.engine,
        arithmetic=options.arithmetic,
        facts=facts_of(model, options.quant, patterns),
        batch=options.batch,
    )
    design = _with_storage(design, model, target)
    patterns = design.patterns
    outline = outline_program(model.config, options.quant, config, patterns, design.facts)
    engines, plan = _plan(design, outline, target)
    step = "quantizing {}".format
    quant = quantize_model(model, options.quant, lambda op_id: progress(step(op_id)), patterns)
    progress("lowering to integers")
    sample = sample_tokens(tokenizer, model.config, min(CALIBRATION_TOKENS, context))
    config = replace(config, residual_bits=fit_residual_bits(quant, config, sample))
    program = engines.laid_out(lower_model(quant, config))
    check_ranges(program, sample)
    cost = profile(program, plan, target, context // 2)
    progress("packing weights")
    blobs = build_blobs(program, plan)
    progress("running the golden vectors on the byte-true simulator")
    tokens = sample_tokens(tokenizer, model.config, steps)
    trace = run_steps(program, plan, blobs, tokens)
    golden = build_golden(program, graph_hash(program, plan), tokens, trace)
    progress("generating code")
    speed = speed_of(cost.readings, cost.energy)
    outcome = Outcome(design, program, plan, speed, target, (), (), engines.decisions)
    reports = build_reports(quant, outcome, cost)
    parts = BundleParts(
        program=program,
        plan=plan,
        target=target,
        blobs=blobs,
        golden=golden,
        prefix=options.prefix,
        version=version("edgec"),
        model_hash=checkpoint_hash(model_dir, model),
        settings={
            **settings_of(quant, config, tokenizer),
            "memory": options.limits.to_dict(),
            "engine": options.engine.value,
            "prefill_batch": "auto" if options.batch is None else options.batch,
        },
        weight_bits=weight_bits(quant),
        extra_files=extra_files(model_dir, reports, read_target_text(target_name)),
    )
    pages = _draw(parts, cost, reports, options.title or model_dir.resolve().name)
    parts = replace(parts, extra_files={**parts.extra_files, **pages})
    return Compiled(emit_bundle(parts), reports)


def _with_storage(design: Design, model: FloatModel, target: TargetSpec) -> Design:
    """The design with those of its N:M patterns that are worth it."""
    chosen = choose_storage(design, target)
    if chosen.patterns == design.patterns:
        return chosen
    return replace(chosen, facts=facts_of(model, design.quant, chosen.patterns))


def _plan(design: Design, outline: Program, target: TargetSpec) -> tuple[Assignment, Plan]:
    """Where linears run, and the plan; the error of `edgec fit` when the model does not fit."""
    engines = choose_engines(outline, target, design.wish)
    try:
        return engines, plan_memory(
            engines.program, target, engines.draft, design.batch, engines.batched
        )
    except DoesNotFitError as error:
        raise explain_misfit(design, target) from error


def _draw(
    parts: BundleParts, cost: Profile, reports: Mapping[str, Any], title: str
) -> dict[str, bytes]:
    """The drawn reports by bundle path."""
    source = PageSource(
        title=title,
        version=parts.version,
        program=parts.program,
        plan=parts.plan,
        target=parts.target,
        fit=reports["fit.json"],
        bits=parts.weight_bits,
        profile=cost,
        timeline=decode_timeline(parts.program, parts.plan, parts.target, cost.latency.position),
        model_hash=parts.model_hash,
        quantization=reports["quantization.json"],
    )
    return report_pages(source)

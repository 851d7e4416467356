"""`edgec export-onnx`: a build or a checkpoint as a quantized ONNX file, and its referee.

The referee runs the file in ONNX Runtime, the same weights in float (NumPy), and the integers of
the firmware on the simulator, all on the same windows of a text. The first two share nothing but
the weights: their difference judges the export; that of the third judges the integer arithmetic.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from codegen.bundle import MANIFEST
from codegen.bundle_read import load_bundle
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.integer import model_of_quant
from toolchain.evaluate.network import Network, network_of_build, network_of_quant
from toolchain.evaluate.onnx_graph import build_onnx
from toolchain.evaluate.onnx_model import OnnxModel
from toolchain.evaluate.perplexity import cut_windows, measure_perplexity, window_size
from toolchain.evaluate.scoring import Ints, Scorer
from toolchain.evaluate.session_model import SessionModel, model_of_build
from toolchain.model.checkpoint import load_model
from toolchain.model.errors import ConfigError, EnvironmentFailureError, Problem
from toolchain.model.lora import base_directory
from toolchain.model.quantize import quantize_model
from toolchain.model.tokenizer import Tokenizer, load_tokenizer, read_tokenizer
from toolchain.options import ModelOptions, bundled_model
from toolchain.tables import stdout


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """What is exported, and the integers that it is compared with."""

    network: Network
    integers: SessionModel
    tokenizer: Tokenizer


def open_quantized(path: Path | None, options: ModelOptions | None) -> Exported:
    """A build as it is, or a checkpoint quantized with `options`; None is the bundled model.

    Raises ConfigError when options are given for a build, whose weights are settled.
    """
    directory = path or bundled_model()
    if (directory / MANIFEST).is_file():
        if options is not None:
            problem = Problem(str(directory), "options of the quantization", "none for a build")
            raise ConfigError("the weights of a build are settled", [problem])
        bundle = load_bundle(directory)
        settings = bundle.manifest["settings"]
        tokenizer = read_tokenizer(
            bundle.tokenizer_path,
            vocab_size=settings["vocab_size"],
            bos_token_id=settings["bos_token_id"],
        )
        return Exported(network_of_build(bundle), model_of_build(bundle), tokenizer)
    if options is None:
        raise ConfigError("a checkpoint needs settings of the quantization")
    quant = quantize_model(load_model(directory), options.quant)
    tokenizer = load_tokenizer(base_directory(directory))
    context = options.context or quant.config.max_position_embeddings
    integers = model_of_quant(quant, tokenizer, context, options.modes)
    return Exported(network_of_quant(quant, context), integers, tokenizer)


def export_onnx(exported: Exported) -> bytes:
    """The checked ONNX file; raises ConfigError for a model beyond 2 GiB."""
    serialized: bytes = build_onnx(exported.network, version("edgec")).SerializeToString(
        deterministic=True
    )
    return serialized


def referee(exported: Exported, serialized: bytes, windows: Sequence[Ints]) -> dict[str, Any]:
    """Perplexity of the three runs, and their relative differences."""
    session = FloatSession(exported.network)
    models: dict[str, Scorer] = {
        "float": SessionModel(session, session.context),
        "onnx": OnnxModel(serialized, session.context),
        "integer": exported.integers,
    }
    values = {name: measure_perplexity(model, windows).value for name, model in models.items()}
    return {
        "windows": len(windows),
        "window": max(len(row) for row in windows),
        "perplexity": values,
        "onnx_against_float": values["onnx"] / values["float"] - 1,
        "integer_against_onnx": values["integer"] / values["onnx"] - 1,
    }


def text_windows(
    exported: Exported, text: str, window: int | None, limit: int | None
) -> list[Ints]:
    """Windows of a text for the referee; the context bounds them."""
    size = window_size(window, exported.network.shape.context)
    tokenizer = exported.tokenizer
    return cut_windows(tokenizer.encode_text(text), size, bos=tokenizer.start, limit=limit)


def print_export(report: dict[str, Any]) -> None:
    """What was written, and the judgement."""
    console = stdout()
    console.print(f"Wrote {report['output']} ({report['bytes']:,} bytes)", soft_wrap=True)
    judged = report["referee"]
    if judged is None:
        return
    values = judged["perplexity"]
    console.print(
        f"perplexity on {judged['windows']:,} windows of {judged['window']} tokens\n"
        f"  same weights in float (NumPy)   {values['float']:.6f}\n"
        f"  this file in ONNX Runtime       {values['onnx']:.6f}  "
        f"({judged['onnx_against_float']:+.1e} relative)\n"
        f"  integers of the firmware        {values['integer']:.6f}  "
        f"({100 * judged['integer_against_onnx']:+.3f} %)"
    )


def write_file(path: Path, data: bytes) -> None:
    """Write beside `path` and move in place: a file of that name is whole or the old one.

    Raises EnvironmentFailureError when it cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EnvironmentFailureError(f"{path} cannot be written: {error.strerror}") from error

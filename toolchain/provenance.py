"""What a bundle says about its origin: hashes, versions, effective settings, copied files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codegen.bundle import TARGET, TOKENIZER
from codegen.json_text import pretty
from toolchain.model.checkpoint import INDEX_FILE, FloatModel
from toolchain.model.gptq_settings import SETTINGS_FILE
from toolchain.model.lora import CONFIG_FILE, base_directory, is_adapter
from toolchain.model.mask_file import MASKS_FILE
from toolchain.model.outline import SITES, LowerConfig
from toolchain.model.quantize import QuantModel
from toolchain.model.tokenizer import TOKENIZER_CONFIG, TOKENIZER_FILE, Tokenizer

READ = ("config.json", SETTINGS_FILE, INDEX_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG)


def checkpoint_hash(model_dir: Path, model: FloatModel) -> str:
    """SHA-256 over names and contents of the files that a compile reads, in order of name."""
    files = {ref.file for ref in model.tensors.values()}
    files |= {factors.down.file for factors in model.factors.values()}
    base = base_directory(model_dir)
    files |= {base / name for name in READ if (base / name).is_file()}
    if is_adapter(model_dir):
        files.add(model_dir / CONFIG_FILE)
    if model.masks:
        files.add(base / MASKS_FILE)
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(f"{path.name}\0".encode() + content)
    return digest.hexdigest()


def settings_of(quant: QuantModel, lower: LowerConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The effective options of a compilation; those of single layers are in the weights table.

    `bos_token_id` is what the tokenizer has to put in front of a prompt, None for nothing.
    """
    config = quant.config
    return {
        "architecture": config.architecture,
        "context": lower.context,
        "activations": {site: lower.mode(site).value for site in SITES},
        "residual_bits": lower.residual_bits,
        "arithmetic": lower.arithmetic.value,
        "sparse": [f"{rule.match}={rule}" for rule in quant.quant.sparse],
        "vocab_size": config.vocab_size,
        "bos_token_id": tokenizer.bos_token_id,
        "prompt_start": tokenizer.encode(""),
        "eos_token_ids": list(config.eos_token_ids),
    }


def weight_bits(quant: QuantModel) -> dict[str, int]:
    """Bits of every stored matrix, by tensor name."""
    matrices = {"embed": quant.embed, **quant.linears}
    matrices["lm_head"] = quant.head  # a tied one may be stored for the engine too
    for pair in quant.adapters.values():
        matrices |= {tensor.name: tensor for tensor in pair}
    return {f"{name}.weight": tensor.bits for name, tensor in matrices.items()}


def extra_files(model_dir: Path, reports: Mapping[str, Any], target_text: str) -> dict[str, bytes]:
    """Tokenizer, target description and reports, by bundle path."""
    files = {f"report/{name}": pretty(report) for name, report in reports.items()}
    files[TARGET] = target_text.encode()
    return {TOKENIZER: (base_directory(model_dir) / TOKENIZER_FILE).read_bytes(), **files}

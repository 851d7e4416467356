"""What a bundle says about its origin: hashes, versions, effective settings, copied files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codegen.bundle import TOKENIZER
from codegen.json_text import pretty
from memory_planner.limits import MemoryLimits
from toolchain.model.outline import SITES, LowerConfig
from toolchain.model.quantize import QuantModel
from toolchain.model.tokenizer import TOKENIZER_FILE

HASHED = ("config.json", TOKENIZER_FILE, "*.safetensors", "*.safetensors.index.json")
CHUNK = 1 << 20
TARGET = "target.toml"  # the target need not be known where the bundle is read


def checkpoint_hash(model_dir: Path) -> str:
    """SHA-256 over names and contents of the files that a compile reads, in order of name."""
    digest = hashlib.sha256()
    files = {path for pattern in HASHED for path in model_dir.glob(pattern)}
    for path in sorted(files, key=lambda path: path.name):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                content.update(chunk)
        digest.update(f"{path.name}\0".encode() + content.digest())
    return digest.hexdigest()


def settings_of(quant: QuantModel, lower: LowerConfig, limits: MemoryLimits) -> dict[str, Any]:
    """The effective options of a compilation; those of single layers are in the weights table."""
    config = quant.config
    return {
        "architecture": config.architecture,
        "context": lower.context,
        "activations": {site: lower.mode(site).value for site in SITES},
        "residual_bits": lower.residual_bits,
        "vocab_size": config.vocab_size,
        "bos_token_id": config.bos_token_id,
        "eos_token_ids": list(config.eos_token_ids),
        "memory": limits.to_dict(),
    }


def weight_bits(quant: QuantModel) -> dict[str, int]:
    """Bits of every stored matrix, by tensor name."""
    matrices = {"embed": quant.embed, **quant.linears}
    if quant.head is not quant.embed:
        matrices["lm_head"] = quant.head
    return {f"{name}.weight": tensor.bits for name, tensor in matrices.items()}


def extra_files(model_dir: Path, reports: Mapping[str, Any], target_text: str) -> dict[str, bytes]:
    """Tokenizer, target description and reports, by bundle path."""
    files = {f"report/{name}": pretty(report) for name, report in reports.items()}
    files[TARGET] = target_text.encode()
    return {TOKENIZER: (model_dir / TOKENIZER_FILE).read_bytes(), **files}

"""Which linears of a checkpoint are stored as integer codes, checked part by part."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from toolchain.model.config import ModelConfig
from toolchain.model.gptq_codes import (
    OPTIONAL_PARTS,
    PARTS,
    CodeRef,
    check_contents,
    check_shapes,
)
from toolchain.model.gptq_settings import CONFIG_KEY, SETTINGS_FILE, GptqSettings
from toolchain.model.json_fields import ProblemLog
from toolchain.model.names import EMBED, expected_shapes, hf_name_of
from toolchain.model.safetensors_file import TensorRef


def take_codes(
    stored: MutableMapping[str, TensorRef | None],
    config: ModelConfig,
    settings: GptqSettings | None,
    log: ProblemLog,
) -> dict[str, CodeRef]:
    """The coded linears by Hugging Face name of the weight; their parts leave `stored`.

    Whatever contradicts the config or the settings goes to `log`.
    """
    found: dict[str, CodeRef] = {}
    for name, shape in expected_shapes(config).items():
        module = name.removesuffix(".weight")
        if f"{module}.qweight" not in stored:
            continue
        known = [part for part in (*PARTS, *OPTIONAL_PARTS) if f"{module}.{part}" in stored]
        parts = {part: stored.pop(f"{module}.{part}") for part in known}
        if name in stored:
            log.add_broken(f"tensor {name}", "floats beside its codes", "one of them")
            del stored[name]
        setting = None if settings is None else settings.of(module)
        if settings is None or setting is None:
            where = f"{SETTINGS_FILE}, or {CONFIG_KEY} of config.json"
            log.add_broken(f"tensor {module}.qweight", "no settings for it", where)
            continue
        bits, group = setting
        rows, columns = shape
        size = columns if group == -1 else min(max(group, 1), columns)
        good = {part: ref for part, ref in parts.items() if ref is not None}
        found[name] = CodeRef(module, (rows, columns), bits, size, settings.version, good)
        if len(good) == len(parts):
            log.broken += check_shapes(found[name])
    if settings is not None and not found and not log.broken:
        log.add_broken(
            CONFIG_KEY,
            f"settings of {settings.version}, and no codes",
            "codes, or no such settings",
        )
    _refuse_embedding(found, log)
    return found


def check_codes(codes: Mapping[str, CodeRef], log: ProblemLog) -> None:
    """Notes every matrix of valid shapes that cannot be compiled exactly."""
    for ref in codes.values():
        log.unsupported += check_contents(ref)


def _refuse_embedding(codes: Mapping[str, CodeRef], log: ProblemLog) -> None:
    if hf_name_of(EMBED) in codes:
        allowed = "floats, which edgec quantizes by row"
        log.add_unsupported(f"tensor {hf_name_of(EMBED)}", "integer codes", allowed)

"""Generated text: golden files, names, and what may and may not change it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.bundle import LoadedBundle
from codegen.render import CodeOptions, render_code
from memory_planner.footprint import blob_header_size
from tests.bundles import compile_tiny
from tests.codegen.handmade import handmade
from toolchain.model.errors import InternalError
from toolchain.model.program import OpKind

OPTIONS = CodeOptions("demo", "1.2.3", 4)
GOLDEN = (
    "include/demo.h",
    "include/demo_linked.h",
    "include/demo_sections.h",
    "src/demo_model.c",
    "weights.S",
    "arenas.S",
    "sections.ld",
    "files.txt",
)


def rendered(options: CodeOptions = OPTIONS) -> dict[str, str]:
    return render_code(*handmade(), options)


@pytest.mark.parametrize("path", GOLDEN)
def test_generated_text(path: str, check_golden_text: Callable[[str, str], None]) -> None:
    check_golden_text(Path(path).name, rendered()[path])


def test_nothing_is_left_of_the_templates() -> None:
    for path, text in rendered().items():
        assert "{{" not in text or path.endswith(".c"), path
        assert "{%" not in text, path
        words = re.findall(r"\bedgec_\w+|\bEDGEC_\w+", text)
        assert words == [], path
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert not re.search(r"[ \t]+$", text, re.MULTILINE), path
        assert "\n\n\n" not in text, path


def test_every_op_has_its_function_with_id_shapes_and_places() -> None:
    program, plan, _ = handmade()
    text = rendered()["src/demo_model.c"]
    for op in program.ops:
        title = f"lNN.{op.role}" if op.layer >= 0 else op.id
        found = re.search(rf"^/\* {re.escape(title)}: (.*?)\*/", text, re.DOTALL | re.MULTILINE)
        assert found is not None, title
        for name in op.outputs:
            place = plan.placements[name]
            dims = "".join(f"[{n}]" for n in program.tensors[name].shape)
            assert f"{dims} at {place.region}+0x{place.offset:x}" in found.group(1), title


def test_offsets_in_tables_count_from_the_start_of_the_blob() -> None:
    program, plan, _ = handmade()
    text = rendered()["src/demo_model.c"]
    for op in program.ops:
        if op.kind is OpKind.LINEAR and op.layer >= 0:
            place = plan.placements[f"{op.id}.weight"]
            offset = place.offset - plan.region(place.region).blob_base
            field = op.role.replace(".", "_")
            row = rf"/\* {op.id}.weight .*\*/\s*\.{field} = (.*),\n"
            found = re.search(row, text)
            assert found is not None, op.id
            assert f", BLOB_MRAM, {offset}U, {op.attrs['shift_index']}U" in found.group(1)


def test_one_function_per_role_whatever_the_number_of_blocks() -> None:
    text = rendered()["src/demo_model.c"]
    assert len(re.findall(r"^static void attn_q_proj\(", text, re.MULTILINE)) == 1
    assert text.count("demo_barrier(&s->worker);") == 3 + 1 + 16


def test_blocks_must_be_alike() -> None:
    program, plan, target = handmade()
    ops = tuple(
        replace(op, attrs={"eps": 7}) if op.id == "l01.mlp.norm" else op for op in program.ops
    )
    with pytest.raises(InternalError, match=r"l01\.mlp\.norm differs from l00\.mlp\.norm"):
        render_code(replace(program, ops=ops), plan, target, OPTIONS)


def test_weights_of_the_same_architecture_change_no_source(
    tmp_path: Path, tiny_bundle: LoadedBundle
) -> None:
    other = compile_tiny(tmp_path, seed=1)
    changed = {
        path
        for path, digest in other.manifest["files"].items()
        if tiny_bundle.manifest["files"][path] != digest
    }
    assert {path.split("/")[0] for path in changed} <= {"weights", "golden", "report"}
    assert "weights/mram.bin" in changed


def test_prefix_is_on_every_file_and_name_that_may_clash(tiny_bundle: LoadedBundle) -> None:
    paths = tiny_bundle.manifest["files"]
    for folder in ("include/", "src/", "runtime/src/", "runtime/include/"):
        names = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
        assert names
        assert all(name.startswith("tiny") for name in names)


def test_only_the_kernels_that_the_model_calls_are_there(tiny_bundle: LoadedBundle) -> None:
    kernels = {
        path for path in tiny_bundle.manifest["files"] if path.startswith("runtime/src/tiny_linear")
    }
    assert "runtime/src/tiny_linear_s16_w4.c" in kernels
    assert "runtime/src/tiny_linear_s16_w8.c" in kernels
    assert not any("_s8_" in name or "_w2" in name for name in kernels)


def test_handmade_plan_has_room_for_its_headers() -> None:
    program, plan, _ = handmade()
    weights = [spec for spec in program.tensors.values() if spec.kind == "weight"]
    assert plan.blob_headers["mram"] == blob_header_size(len(weights))

"""Parameter counts and sizes of published recipes, from arithmetic that shares no code with us."""

from __future__ import annotations

import pytest

from memory_planner.target_file import load_target
from toolchain.fit.design import Design, WhatIf, build_program
from toolchain.fit.planning import plan_design
from toolchain.fit.report import fit_report
from toolchain.fit.shapes import load_shape
from toolchain.fit.sizes import count_parameters
from toolchain.model.config import ModelConfig
from toolchain.model.nm_pattern import Pattern
from toolchain.model.quant_settings import QuantConfig

DEPTHS = (0, 2, 4, 6, 8)
WIDTHS = ("dense", "1:2", "2:4", "1:8", "4:8", "1:16", "8:16", "12:16", "3:4")

# Galavotti, "Optimizing small language models", LLaMA 3.2 1B: millions of parameters.
REPORTED = {(0, "dense"): 1235.8, (2, "dense"): 1114.2, (0, "2:4"): 749.3, (2, "1:8"): 1007.7}


def design(config: ModelConfig, depth: int, width: str, group_size: int = 32) -> Design:
    pattern = None if width == "dense" else Pattern(*map(int, width.split(":")))
    what_if = WhatIf(depth=depth, attn_width=pattern, mlp_width=pattern)
    return Design(config, QuantConfig(group_size=group_size), 64, what_if=what_if)


def kept(config: ModelConfig, depth: int, width: str) -> int:
    the_design = design(config, depth, width)
    return count_parameters(the_design, build_program(the_design)).kept


def llama_by_hand(depth: int, width: str) -> int:
    """hidden 2048, FFN 8192, 16 blocks, 8 KV heads of 64, 128256 tokens: every M divides."""
    block = 2048 * 2048 + 512 * 2048 + 512 * 2048 + 2048 * 2048 + 3 * 8192 * 2048
    if width != "dense":
        n, m = map(int, width.split(":"))
        assert block % m == 0
        block = block // m * (m - n)
    return 128256 * 2048 + (16 - depth) * (block + 2 * 2048) + 2048


def stories_by_hand(depth: int, width: str) -> int:
    """hidden 64, FFN 172, 5 blocks, 4 KV heads of 8, 512 tokens: 172 leaves a tail of 4 or 12."""
    n, m = (0, 1) if width == "dense" else map(int, width.split(":"))
    row64 = 64 - 64 // m * n
    row172 = 172 - 172 // m * n
    block = (64 + 32 + 32 + 64 + 172 + 172) * row64 + 64 * row172
    return 512 * 64 + (5 - depth) * (block + 2 * 64) + 64


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_and_width_of_the_thesis(depth: int, width: str) -> None:
    count = kept(load_shape("llama-3.2-1b").config, depth, width)
    assert count == llama_by_hand(depth, width)
    if (depth, width) in REPORTED:
        assert f"{count / 1e6:.1f}" == f"{REPORTED[depth, width]:.1f}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_last_group_that_is_not_whole_stays_dense(depth: int, width: str) -> None:
    assert kept(load_shape("stories260k").config, depth, width) == stories_by_hand(depth, width)


def test_attention_and_ffn_are_pruned_apart() -> None:
    config = load_shape("llama-3.2-1b").config
    attention, ffn = 2 * 2048 * 2048 + 2 * 512 * 2048, 3 * 8192 * 2048
    for what_if, removed in (
        (WhatIf(attn_width=Pattern(1, 4)), attention // 4),
        (WhatIf(mlp_width=Pattern(3, 8)), ffn // 8 * 3),
    ):
        the_design = Design(config, QuantConfig(), 64, what_if=what_if)
        count = count_parameters(the_design, build_program(the_design))
        assert count.dense - count.kept == 16 * removed
        assert count.given == count.dense == 1_235_814_400


def test_reported_sizes_within_three_percent() -> None:
    """The thesis says GB and means GiB; its 4-bit model is a GPTQ checkpoint of group 128."""
    config = load_shape("llama-3.2-1b").config
    target = load_target("siracusa")

    def sizes(depth: int) -> dict[str, int]:
        report = fit_report(plan_design(design(config, depth, "dense", 128), target))
        found: dict[str, int] = report["bytes"]
        return found

    gib = 1 << 30
    assert sizes(0)["fp16"] / gib == pytest.approx(2.30, rel=0.03)
    assert sizes(2)["fp16"] / gib == pytest.approx(2.08, rel=0.03)
    assert sizes(0)["gptq_checkpoint"] / gib == pytest.approx(0.98, rel=0.03)
    assert sizes(0)["packed"] < sizes(0)["gptq_checkpoint"]  # edgec's embedding has 8 bits


def test_gptq_checkpoint_by_hand() -> None:
    """One block of 2 x 2 heads: hidden 4, FFN 6, vocabulary 3, groups of 2 at 4 bits."""
    from tests.fit.tiny import tiny_config
    from toolchain.fit.sizes import gptq_checkpoint_size

    config = tiny_config(hidden=4, ffn=6, layers=1, heads=2, kv_heads=1, head_dim=2, vocab=3)
    the_design = Design(config, QuantConfig(bits=4, group_size=2), 8)
    weights = 4 * 4 + 2 * 4 + 2 * 4 + 4 * 4 + 3 * 4 * 6
    groups = weights // 2
    inputs = 6 * 4 + 6
    halves = 3 * 4 + 3 * 4  # tied embedding, three norms
    expected = weights * 4 // 8 + groups * (16 + 4) // 8 + 4 * inputs + 2 * halves
    assert gptq_checkpoint_size(the_design, build_program(the_design)) == expected

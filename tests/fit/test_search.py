"""Sweeps and suggestions: every line planned, the best ones found, the same every time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from memory_planner.target_file import load_target
from toolchain.fit.design import Design, WhatIf
from toolchain.fit.planning import fits
from toolchain.fit.shapes import load_shape
from toolchain.fit.sizes import config_parameters
from toolchain.fit.suggest import (
    LEAST_FILL,
    Suggestion,
    base_config,
    config_values,
    grain_widths,
    suggest_shapes,
)
from toolchain.fit.sweep import Point, beats, mark_pareto, sweep
from toolchain.model.config import parse_config
from toolchain.model.json_fields import ProblemLog
from toolchain.model.quant_settings import QuantConfig

SIRACUSA = load_target("siracusa")
STORIES = Design(load_shape("stories260k").config, QuantConfig(), 128)
BASE = Design(base_config(2048, 128), QuantConfig(), 128)


def point(packed: int, kept: int, speed: float, bits: int = 4) -> Point:
    return Point(0, "dense", bits, kept, packed, 0, speed, fits=True)


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return sweep(STORIES, SIRACUSA, {"bits"})


@pytest.fixture(scope="module")
def suggestions() -> list[Suggestion]:
    return suggest_shapes(BASE, SIRACUSA, 1_000_000)


def test_pareto_by_hand() -> None:
    small, large = point(10, 10, 5.0), point(20, 20, 4.0)
    slower, bigger = point(10, 10, 4.0), point(21, 20, 4.0)
    marked = mark_pareto([small, large, slower, bigger])
    assert [p.pareto for p in marked] == [True, True, False, False]


def test_speeds_within_two_percent_are_equal() -> None:
    assert beats(point(10, 10, 100.0), point(11, 10, 101.9))
    assert not beats(point(10, 10, 100.0), point(11, 10, 102.1))
    assert not beats(point(10, 10, 101.0), point(10, 10, 100.0))
    assert beats(point(10, 10, 103.0), point(10, 10, 100.0))


def test_fewer_bits_do_not_beat_more() -> None:
    assert not beats(point(10, 10, 9.0, bits=2), point(20, 10, 9.0, bits=4))


def test_points_are_planned_like_single_designs(points: list[Point]) -> None:
    from toolchain.fit.planning import plan_design
    from toolchain.fit.sizes import count_parameters, packed_size
    from toolchain.model.nm_pattern import Pattern

    assert len({(p.depth, p.width, p.bits) for p in points}) == len(points)
    (one,) = (p for p in points if (p.depth, p.width) == (2, "2:4"))
    half = Pattern(2, 4)
    design = replace(STORIES, what_if=WhatIf(depth=2, attn_width=half, mlp_width=half))
    outcome = plan_design(design, SIRACUSA)
    assert one.kept == count_parameters(design, outcome.program).kept
    assert one.packed == packed_size(outcome.program)
    assert one.fits


def test_given_axes_are_fixed() -> None:
    design = replace(STORIES, what_if=WhatIf(depth=1), quant=QuantConfig(bits=3))
    points = sweep(design, SIRACUSA, {"depth", "bits"})
    assert {(p.depth, p.bits) for p in points} == {(1, 3)}
    assert {p.width for p in points} >= {"dense", "1:8", "2:4", "12:16"}


def test_sweeps_are_deterministic(points: list[Point]) -> None:
    assert sweep(STORIES, SIRACUSA, {"bits"}) == points


def test_deeper_cuts_keep_less(points: list[Point]) -> None:
    dense = {p.depth: p for p in points if p.width == "dense"}
    kept = [dense[depth].kept for depth in sorted(dense)]
    assert kept == sorted(kept, reverse=True)
    assert len(kept) > 2


def test_widths_follow_the_grain() -> None:
    assert {252, 504, 756, 1008, 2016} <= set(grain_widths())
    wide = [width for width in grain_widths() if width > 224]
    assert all(width % 252 == 0 for width in wide)


def test_suggestions_fit_and_obey(suggestions: list[Suggestion]) -> None:
    assert suggestions
    best = max(s.parameters for s in suggestions)
    for suggestion in suggestions:
        config = suggestion.config
        assert config.intermediate_size in grain_widths()
        assert config.hidden_size in grain_widths()
        assert config.num_heads % SIRACUSA.cores == 0
        assert 0 <= config.hidden_size - config.num_heads * config.head_dim < 4 * config.num_heads
        assert LEAST_FILL * best <= config_parameters(config) <= 1_000_000
        assert fits(replace(BASE, config=config), SIRACUSA)


def test_faster_suggestions_are_smaller(suggestions: list[Suggestion]) -> None:
    for fast, large in pairwise(suggestions):
        assert fast.tokens_per_second > large.tokens_per_second
        assert fast.parameters < large.parameters
    assert all(0 < suggestion.bound_share < 1 for suggestion in suggestions)


def test_suggestions_are_deterministic(suggestions: list[Suggestion]) -> None:
    assert suggest_shapes(BASE, SIRACUSA, 1_000_000) == suggestions


def test_suggestions_fill_the_memory_without_a_wish() -> None:
    found = suggest_shapes(BASE, SIRACUSA)
    assert max(suggestion.fill for suggestion in found) > 0.95
    for suggestion in found:  # a block more would not fit, or is beyond the aspect
        config = suggestion.config
        deeper = replace(BASE, config=replace(config, num_layers=config.num_layers + 1))
        assert not fits(deeper, SIRACUSA) or config.hidden_size // 12 == config.num_layers


def test_a_suggestion_is_a_config_json(suggestions: list[Suggestion]) -> None:
    log = ProblemLog()
    config = suggestions[0].config
    assert parse_config(config_values(config), log) == config
    assert not log.broken
    assert not log.unsupported


def test_nothing_is_suggested_where_nothing_fits() -> None:
    huge = Design(base_config(1 << 20, 128), QuantConfig(), 128)
    assert suggest_shapes(huge, SIRACUSA) == []
    assert suggest_shapes(BASE, SIRACUSA, 1000) == []

"""The two readings of the engine's cycles, for tests."""

from __future__ import annotations

from dataclasses import replace

from memory_planner.engine_time import EngineCycles

# Measured on the SoC's simulator; it agrees with the formula of the simulator's sources.
SIMULATOR = EngineCycles(
    wake=12,
    job=2,
    load=6,
    input_words_3x3=0,
    input_words_1x1=42,
    start_3x3=6,
    start_1x1=10,
    start_1x1_prefetch=7,
    end_3x3=8,
    depthwise=34,
    prefetched=3,
    stream_in=10,
    shift=8,
    scale=9,
    bias=4,
    requant_end=8,
    output_pixels=0,
    write_1x1=3,
)
# The public sources of a sibling engine fill the input buffer and write all pixels, always.
CONSERVATIVE = replace(SIMULATOR, input_words_3x3=64, input_words_1x1=46, output_pixels=36)

"""The jobs of linears on the engine's model against plain integer products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_planner.engine_jobs import LinearJob, acc_geometry, linear_job, stage_geometry
from memory_planner.engine_registers import job_registers
from sim.neureka import run_job
from sim.neureka_config import JobError
from tests.sim.engine_cases import L1, NMS, Image, OutsideError
from toolchain.model.engine_packing import EngineLayout, engine_group_slices, pack_engine
from toolchain.model.packing import Packing, WeightInts

Ints = npt.NDArray[np.int64]
WEIGHTS = 0x4000  # offset in the weight memory
INPUT, OUTPUT = L1 + 0x40, L1 + 0x10000


def packed(values: Ints, layout: EngineLayout) -> bytes:
    rows = len(values)
    ones, zeros = np.ones((rows, layout.groups), np.uint8), np.zeros(rows, np.uint32)
    return pack_engine(WeightInts(values.astype(np.int8), ones, zeros), layout)


def stage(x: Ints, layout: EngineLayout, windows: int) -> npt.NDArray[np.uint8]:
    """The input image of one group's vectors x (windows, columns)."""
    geometry = stage_geometry(layout, windows)
    image = np.zeros(geometry.size, np.uint8)
    for vector, origin in zip(x, geometry.origins, strict=True):
        for i, value in enumerate(vector):
            at = origin + i // geometry.chunk * geometry.stride + i % geometry.chunk
            assert i < geometry.chunk * geometry.chunks
            image[at] = value & 0xFF
    return image


def run_linear(tensors: list[Ints], x: Ints, layout: EngineLayout) -> list[Ints]:
    """Accumulators (windows, groups, rows) of each tensor; x is (windows, columns)."""
    layouts = [
        EngineLayout(
            *(layout.packing, len(t), layout.columns, layout.bits, layout.group_size),
            *(layout.taps, layout.tail),
        )
        for t in tensors
    ]
    windows, channels = len(x), sum(one.channels for one in layouts)
    memory = Image(0, nms_size=1 << 20)
    data = b"".join(packed(t, one) for t, one in zip(tensors, layouts, strict=True))
    memory.write(NMS + WEIGHTS, data)
    job, acc = (
        LinearJob(layout, channels, windows),
        acc_geometry(layout, channels, windows),
    )
    results: list[Ints] = [np.zeros((windows, layout.groups, len(t)), np.int64) for t in tensors]
    for group, columns in enumerate(engine_group_slices(layout)):
        memory.write(INPUT, stage(x[:, columns], layout, windows).tobytes())
        weights = WEIGHTS + group * layouts[0].words_size
        run_job(job_registers(linear_job(job, weights, INPUT, OUTPUT)), memory, NMS)
        first = 0
        for result, one in zip(results, layouts, strict=True):
            for window in range(windows):
                for row in range(one.rows):
                    at = OUTPUT + acc.offset(window, row, one.channels, first)
                    assert at + 4 <= OUTPUT + acc.size
                    result[window, group, row] = int.from_bytes(
                        memory.read(at, 4), "little", signed=True
                    )
            first += one.channels
    return results


def products(values: Ints, x: Ints, layout: EngineLayout) -> Ints:
    """(windows, groups, rows) without the tail."""
    slices = engine_group_slices(layout)
    return np.stack([x[:, g] @ values[:, g].T for g in slices], axis=1)


ARRANGEMENTS = [
    (Packing.NEUREKA_3X3, 9),
    (Packing.NEUREKA_3X3, 3),
    (Packing.NEUREKA_3X3, 1),
    (Packing.NEUREKA_1X1, 1),
]


@given(data=st.data())
@settings(max_examples=80)
def test_random_linears(data: st.DataObject) -> None:
    packing, taps = data.draw(st.sampled_from(ARRANGEMENTS))
    columns = data.draw(st.one_of(st.integers(1, 130), st.sampled_from([252, 253, 280, 504])))
    group_size = data.draw(st.sampled_from([32, 64, columns]))
    left = columns - (columns - 1) // group_size * group_size
    tail = data.draw(st.sampled_from([0, min(4, left - 1), left - 1]))
    rows, bits = data.draw(st.integers(1, 100)), data.draw(st.integers(2, 8))
    layout = EngineLayout(packing, rows, columns, bits, group_size, taps, tail)
    counts = [1, 2, 4] if packing is Packing.NEUREKA_3X3 else [1, 8]
    windows = data.draw(st.sampled_from(counts))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    values = rng.integers(layout.least, -layout.least, (rows, columns))
    x = rng.integers(-128, 128, (windows, columns))
    (result,) = run_linear([values], x, layout)
    assert (result == products(values, x, layout)).all()


@pytest.mark.parametrize(("packing", "taps"), ARRANGEMENTS)
def test_fused_tensors_are_one_job(packing: Packing, taps: int) -> None:
    """q, k and v side by side, the high and low bytes of 16-bit activations as two windows."""
    rng = np.random.default_rng(taps)
    layout = EngineLayout(packing, 64, 64, 4, 64, taps)
    tensors = [rng.integers(-8, 8, (rows, 64)) for rows in (64, 30, 31)]
    q = rng.integers(-32640, 32640, 64)
    high = (q + 128) >> 8
    low = q - 256 * high
    results = run_linear(tensors, np.stack([high, low]), layout)
    for tensor, (high_acc, low_acc) in zip(tensors, results, strict=True):
        assert (256 * high_acc + low_acc == tensor @ q).all()


def test_extremes_are_exact() -> None:
    """All weights and inputs at their most negative: 2048 columns, 8 bits, three tiles and more."""
    layout = EngineLayout(Packing.NEUREKA_3X3, 33, 2048, 8, 2048)
    values, x = np.full((33, 2048), -128), np.full((1, 2048), -128)
    assert (run_linear([values], x, layout)[0] == 2048 << 14).all()


def test_a_linear_sees_a_wrong_register() -> None:
    layout = EngineLayout(Packing.NEUREKA_3X3, 40, 300, 3, 300)  # C = 34: tiles of 28 and 6
    rng = np.random.default_rng(5)
    values, x = rng.integers(-4, 4, (40, 300)), rng.integers(-128, 128, (1, 300))
    memory = Image(2)
    memory.write(NMS + WEIGHTS, packed(values, layout))
    memory.write(INPUT, stage(x, layout, 1).tobytes())
    job = linear_job(LinearJob(layout, 40), WEIGHTS, INPUT, OUTPUT)
    good = list(job_registers(job))

    def output(registers: list[int]) -> bytes:
        run_job(registers, memory, NMS)
        return memory.read(OUTPUT, 160)

    expected = output(good)
    assert (np.frombuffer(expected, "<i4") == values @ x[0]).all()
    changes = {
        "input row": (7, 103),
        "input pixel": (6, 35),
        "last input channels": (15, 8 << 16 | 5),
        "input subtiles": (18, 2 << 16 | 1),
        "weights of a channel": (13, 192 + 32),
        "Wmin": (21, 0xFFFFFFFD),
        "signedness": (23, good[23] & ~(1 << 26)),
        "bits": (23, good[23] + 1),
        "mode": (23, good[23] | 2 << 5),
    }
    for what, (index, value) in changes.items():
        wrong = good.copy()
        wrong[index] = value
        try:
            assert output(wrong) != expected, what
        except (JobError, OutsideError):
            continue

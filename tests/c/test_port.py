"""The host port: barrier, team, and transfers that are as late as they may be."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_uint32, c_void_p

import numpy as np
import pytest

from tests.c.runtime import ENTRY, Runtime, Worker, pointer


class Dma(Structure):
    """edgec_dma."""

    _fields_ = [
        ("destination", c_void_p),
        ("source", c_void_p),
        ("size", c_uint32),
        ("id", c_uint32),
    ]


def test_bytes_arrive_at_the_wait_and_not_before(runtime: Runtime) -> None:
    source, destination = np.arange(9, dtype=np.uint8), np.zeros(11, np.uint8)
    dma = Dma()
    runtime.library.edgec_dma_start(
        ctypes.byref(dma), pointer(destination), pointer(source), c_uint32(9)
    )
    assert destination.tolist() == [0xA5] * 9 + [0, 0]
    runtime.library.edgec_dma_wait(ctypes.byref(dma))
    assert destination.tolist() == [*range(9), 0, 0]


@pytest.mark.parametrize("cores", [1, 3, 8, 16])
def test_barrier_separates_phases(runtime: Runtime, cores: int) -> None:
    phases = 20
    arrivals: list[tuple[int, int]] = []

    def entry(worker: ctypes._Pointer[Worker], _: object) -> None:
        for phase in range(phases):
            arrivals.append((phase, worker.contents.id))
            runtime.library.edgec_barrier(worker)

    assert runtime.library.edgec_run_team(c_uint32(cores), None, ENTRY(entry), None) == 0
    assert [phase for phase, _ in arrivals] == [p for p in range(phases) for _ in range(cores)]
    for phase in range(phases):
        ids = {core for _, core in arrivals[phase * cores : (phase + 1) * cores]}
        assert ids == set(range(cores))


@pytest.mark.parametrize("cores", [0, 17, 2**32 - 1])
def test_impossible_teams_are_refused(runtime: Runtime, cores: int) -> None:
    called: list[int] = []
    entry = ENTRY(lambda worker, _: called.append(worker.contents.id))
    assert runtime.library.edgec_run_team(c_uint32(cores), None, entry, None) == 1
    assert called == []

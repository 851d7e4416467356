"""The engine's model in C against the one in Python: same registers, same bytes, same refusals."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from memory_planner.engine_registers import job_registers
from sim.neureka import run_job
from sim.neureka_config import JobError
from tests.c.conftest import SANITIZERS
from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c, rv32_port, sources
from tests.sim.engine_cases import (
    L1,
    L1_SIZE,
    NMS,
    NMS_SIZE,
    Image,
    OutsideError,
    Sizes,
    random_job,
)
from toolchain.c_tools import (
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_simulator,
    run_program,
)
from toolchain.model.errors import ToolError

Case = tuple[list[int], tuple[int, int]]  # registers; offset and count of bytes to make shifts of
OK = 0


def filled(size: int, seed: int) -> npt.NDArray[np.uint8]:
    index = np.arange(size, dtype=np.uint32) + np.uint32(seed)
    return (index * np.uint32(2654435761) >> np.uint32(11)).astype(np.uint8)


def cases(count: int, sizes: Sizes) -> list[Case]:
    """Random jobs; in every third one a bit of a register is flipped."""
    rng = np.random.default_rng(count)
    result: list[Case] = []
    for n in range(count):
        job = random_job(rng, sizes)
        registers = list(job_registers(job))
        if n % 3 == 2:
            registers[rng.integers(24)] ^= 1 << int(rng.integers(32))
        keep = rng.integers(8) == 0  # shifts above 31 now and then
        shifts = (job.requant.shift - L1, 0 if keep else job.shape.channels)
        result.append((registers, shifts))
    return result


def reference(jobs: Sequence[Case]) -> list[tuple[bool, int]]:
    """Per case whether it ran, and the CRC-32 of L1 behind it."""
    image = Image(0, 0, 0)
    image.parts = {L1: filled(L1_SIZE, 1), NMS: filled(NMS_SIZE, 77777)}
    results = []
    for registers, (offset, count) in jobs:
        image.parts[L1][offset : offset + count] &= 31
        before = image.parts[L1].copy()
        try:
            run_job(registers, ReadOnlyWeights(image), NMS)
            ran = True
        except (JobError, OutsideError):
            image.parts[L1], ran = before, False
        results.append((ran, zlib.crc32(image.parts[L1].tobytes())))
    return results


class ReadOnlyWeights:
    """The image, whose weight memory the engine cannot write."""

    def __init__(self, image: Image) -> None:
        self.read = image.read
        self._image = image

    def write(self, address: int, data: bytes) -> None:
        if address >= NMS:
            raise OutsideError("a weight memory is read only")
        self._image.write(address, data)


def write_header(directory: Path, jobs: Sequence[Case]) -> None:
    def rows(values: Sequence[Sequence[int]]) -> str:
        return ",\n".join("    {" + ", ".join(f"{v:#x}U" for v in row) + "}" for row in values)

    constants = {"L1": L1, "L1_SIZE": L1_SIZE, "NMS": NMS, "NMS_SIZE": NMS_SIZE, "CASES": len(jobs)}
    lines = [f"#define {name} {value:#x}U" for name, value in constants.items()]
    lines.append(f"static const uint32_t JOBS[CASES][24] = {{\n{rows([j for j, _ in jobs])}\n}};")
    lines.append(f"static const uint32_t SHIFTS[CASES][2] = {{\n{rows([s for _, s in jobs])}\n}};")
    (directory / "neureka_cases.h").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check(output: bytes, jobs: Sequence[Case]) -> set[int]:
    """Compares all cases; returns the statuses that came."""
    found = np.frombuffer(output, "<u4").reshape(-1, 2)
    expected = reference(jobs)
    assert len(found) == len(expected)
    for n, ((status, crc), (ran, memory)) in enumerate(zip(found, expected, strict=True)):
        assert (status == OK) == ran, (n, int(status), jobs[n])
        assert crc == memory, (n, jobs[n])
    statuses = [int(status) for status, _ in found]
    assert statuses.count(OK) > len(jobs) // 2
    return set(statuses)


def build(command: Sequence[str], directory: Path, files: Sequence[Path], *more: str) -> Path:
    program = directory / "cases"
    include = ["-I", str(directory), *INCLUDES]
    main = Path(__file__).with_name("neureka_cases.c")
    compile_c([*command, *STRICT, *include, *map(str, [*files, main]), *more, "-o", str(program)])
    return program


def model_sources() -> list[Path]:
    names = ("edgec_neureka_model", "edgec_neureka_config_read", "edgec_crc32")
    return [RUNTIME / "src" / f"{name}.c" for name in names]


def host_command(kind: str) -> list[str]:
    if kind == "gcc with sanitizers":
        if shutil.which("gcc") is None:
            pytest.skip("gcc is not installed")
        return ["gcc", *SANITIZERS, "-g"]
    try:
        compiler = find_host_compiler() if kind == "host" else find_rv32_compiler()
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])
    if kind == "zig with sanitizers":
        if compiler.name != "zig cc":
            pytest.skip("zig is not installed")
        zig = compiler.command[: compiler.command.index("cc") + 1]
        return [*zig, "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all", "-g"]
    return [*compiler.command, "-O2"]


@pytest.mark.parametrize("kind", ["host", "gcc with sanitizers", "zig with sanitizers"])
def test_host(kind: str, tmp_path: Path) -> None:
    jobs = cases(300, Sizes())
    write_header(tmp_path, jobs)
    port = RUNTIME / "port" / "host"
    program = build(host_command(kind), tmp_path, [*model_sources(), *port.glob("*.c")], "-pthread")
    result = subprocess.run([str(program)], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert check(result.stdout, jobs) == {0, 1, 2, 3, 4}  # every status


def test_rv32(tmp_path: Path) -> None:
    try:
        compiler, simulator = find_rv32_compiler(), find_rv32_simulator(tmp_path)
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])
    if simulator.linux:
        pytest.skip("a bare program needs spike")
    jobs = cases(30, Sizes(40, 70, 4))
    write_header(tmp_path, jobs)
    port = RUNTIME / "port" / "rv32"
    command = [*compiler.command, "-O2", "-ffreestanding", "-nostdlib", "-static"]
    files = [*model_sources(), *rv32_port()]
    program = build(command, tmp_path, files, "-T", str(port / "link.ld"))
    result = run_program([*simulator.command, str(program)])
    assert result.exit_code == 0, result.output
    check(result.output, jobs)


def test_the_model_is_part_of_the_runtime() -> None:
    assert set(model_sources()) <= set(sources())

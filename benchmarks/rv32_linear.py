"""Instructions of the linear kernels on RV32IMC, counted with spike: dense and N:M sparse.

    python -m benchmarks.rv32_linear

Per kernel: instructions per weight of the matrix (a removed weight counts, so that sparse and dense
compare), per kept weight, per row, and per scale group and row, from the differences of four runs.
Such figures are the constants `[costs.mac]` of memory_planner/targets/*.toml.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c, rv32_port
from tests.model.nm_weights import remove
from toolchain.c_tools import find_rv32_compiler, find_rv32_simulator, run_program
from toolchain.model.matrix_storage import pack_matrix, sparse_layout
from toolchain.model.nm_pattern import PATTERNS, Pattern
from toolchain.model.packing import CORE_PACKINGS, WeightInts, WeightLayout

PORT = RUNTIME / "port" / "rv32"
ROWS = 32
RUNS = ((256, 256), (512, 512), (512, 32), (524, 524))  # columns, group size

MAIN = """
#include "edgec_kernels.h"
#include "edgec_runner.h"
int main(void);
static const int16_t x[600] = {1, -2, 3};
%s
int main(void) {
    static int32_t y[%d];
    static const int32_t scale[2] = {1 << 14, -20};
    for (uint32_t i = 0U; i < sizeof cases / sizeof cases[0]; i++) {
        const uint64_t before = edgec_clock();
        cases[i].kernel(&cases[i].matrix, cases[i].record, %dU, x, scale, cases[i].shift, y);
        const uint32_t count = (uint32_t)(edgec_clock() - before);
        edgec_write(&count, 4U);
    }
    return 0;
}
"""


@dataclass(frozen=True)
class Kernel:
    """One kernel: activation type, stored bits, pattern."""

    activation: str
    dense: WeightLayout  # of 16 columns
    pattern: Pattern | None

    @property
    def name(self) -> str:
        """Its function."""
        name = f"edgec_linear_{self.activation}_w{self.dense.packing.field_bits}"
        return f"{name}_{self.pattern.removed}of{self.pattern.group}" if self.pattern else name


def kernels() -> Iterator[Kernel]:
    """Every kernel of the runtime."""
    for activation in ("s16", "s8"):
        for packing in CORE_PACKINGS:
            dense = WeightLayout(packing, ROWS, 256, 256)
            yield Kernel(activation, dense, None)
            for pattern in PATTERNS:
                if sparse_layout(dense, pattern).pays:
                    yield Kernel(activation, dense, pattern)


def case_of(kernel: Kernel, index: int, columns: int, group: int, shift: int) -> tuple[str, str]:
    """C of the record and of the table's row."""
    rng = np.random.default_rng(0)
    dense = WeightLayout(kernel.dense.packing, ROWS, columns, group)
    half = 1 << (dense.packing.field_bits - 1)
    values = rng.integers(-half, half, (ROWS, columns))
    layout = dense
    if kernel.pattern:
        layout = sparse_layout(dense, kernel.pattern)
        values = remove(values, kernel.pattern, rng)
    words = np.full(ROWS, 0x80000000 | 20, np.uint32)
    scales = np.ones((ROWS, layout.groups), np.uint8)
    data = pack_matrix(WeightInts(values.astype(np.int8), scales, words), layout)
    numbers = ",".join(map(str, data))
    record = f"static const uint8_t r{index}[] __attribute__((aligned(4))) = {{{numbers}}};\n"
    matrix = f"{ROWS}, {columns}, {group}, {layout.packing.field_bits}, {layout.record_size}"
    return record, f"{{{kernel.name}, {{{matrix}, 2, 0, 1, 2}}, r{index}, {shift}U}},\n"


def count(cases: list[tuple[Kernel, int, int, int]]) -> list[int]:
    """Instructions of each (kernel, columns, group, shift)."""
    parts = [case_of(kernel, i, *how) for i, (kernel, *how) in enumerate(cases)]
    table = (
        "static const struct { edgec_linear_kernel kernel; edgec_matrix matrix;"
        " const uint8_t *record; uint32_t shift; } cases[] = {\n"
    )
    text = "".join(record for record, _ in parts) + table + "".join(row for _, row in parts) + "};"
    compiler = find_rv32_compiler()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        simulator = find_rv32_simulator(directory)
        main, program = directory / "main.c", directory / "count.elf"
        main.write_text(MAIN % (text, ROWS, ROWS), encoding="utf-8")
        flags = ["-O2", "-ffreestanding", "-nostdlib", "-static"]
        sources = [*rv32_port(), main, *(RUNTIME / "src").glob("edgec_linear_*.c")]
        sources += (RUNTIME / "src").glob("edgec_mask_*.c")
        linker = ["-T", str(PORT / "link.ld"), "-o", str(program)]
        command = [*compiler.command, *STRICT, *flags, *INCLUDES, *map(str, sources), *linker]
        compile_c(command)
        output = run_program([*simulator.command, str(program)]).output
    return [int(value) for value in np.frombuffer(output, "<u4")]


def main() -> None:
    """Print the table."""
    found = list(kernels())
    cases = [(kernel, *run, 0) for kernel in found for run in RUNS]
    wide = [(kernel, 512, 512, 8) for kernel in found]
    counts = count(cases + wide)
    print("kernel                        per weight  per kept  per row  per group  tail  shifted")
    for i, kernel in enumerate(found):
        short, long, grouped, tail = counts[4 * i : 4 * i + 4]
        shifted = counts[len(cases) + i]
        unit = (long - short) / ROWS / 256
        kept = kernel.pattern.kept / kernel.pattern.group if kernel.pattern else 1.0
        print(
            f"{kernel.name:30} {unit:9.2f} {unit / kept:9.2f}"
            f" {short / ROWS - 256 * unit:8.1f} {(grouped - long) / ROWS / 15:10.1f}"
            f" {(tail - long) / ROWS / 12:5.1f} {(shifted - long) / ROWS:8.1f}"
        )


if __name__ == "__main__":
    main()

"""XpulpV2 operations: their encodings by hand, and the instructions against the portable C."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.c.runtime import INCLUDES, RUNTIME, STRICT, compile_c, rv32_port
from toolchain.c_tools import find_host_compiler, find_rv32_compiler, run_program
from toolchain.model.errors import ToolError

HERE = Path(__file__).parent
PORTS = RUNTIME / "port"
BARE = ("-O2", "-ffreestanding", "-nostdlib", "-static", "-DEDGEC_XPULP=1")

# funct7, rs2, rs1, funct3, rd, opcode; the functions below have a in x10, b in x11, d in x10.
ENCODINGS = {
    "int edgec_min32(int a, int b)": "0000010 01011 01010 100 01010 0110011",
    "int edgec_max32(int a, int b)": "0000010 01011 01010 110 01010 0110011",
    "unsigned edgec_maxu32(unsigned a, unsigned b)": "0000010 01011 01010 111 01010 0110011",
    "int edgec_abs32(int a)": "0000010 00000 01010 000 01010 0110011",
    "unsigned edgec_top_bit(unsigned a)": "0001000 00000 01010 001 01010 0110011",
    "unsigned edgec_mul_low16(unsigned a, unsigned b)": "0000000 01011 01010 000 01010 1011011",
    "unsigned edgec_mul_high16(unsigned a, unsigned b)": "0100000 01011 01010 000 01010 1011011",
    "unsigned edgec_mul_high16_rs15(unsigned a, unsigned b)": (
        "0101111 01011 01010 100 01010 1011011"
    ),
    "int edgec_round_shift(int a, unsigned b)": "0100000 01011 00000 110 01010 1011011",
    "unsigned edgec_round_shift_u(unsigned a, unsigned b)": "1100000 01011 00000 110 01010 1011011",
    "int edgec_dot4_ss(int d, unsigned a, unsigned b)": "1011100 01100 01011 001 01010 1010111",
    "int edgec_dot4_us(int d, unsigned a, unsigned b)": "1010100 01100 01011 001 01010 1010111",
    "int edgec_dot2_ss(int d, unsigned a, unsigned b)": "1011100 01100 01011 000 01010 1010111",
    "unsigned edgec_shuffle4(unsigned d, unsigned a, unsigned b)": (
        "1100100 01100 01011 001 01010 1010111"
    ),
}


# In registers from x10 on.
OPERANDS = ("d", "a", "b", "s", "n", "rows")
IN_ASSEMBLY = {
    "EDGEC_X_LWP(d, a, 4)": "000000000100 01011 010 01010 0001011",
    "EDGEC_X_LHP(d, a, 2)": "000000000010 01011 001 01010 0001011",
    "EDGEC_X_LBUP(d, a, 4)": "000000000100 01011 100 01010 0001011",
    "EDGEC_X_LWS(d, a, s)": "0010000 01101 01011 111 01010 0001011",
    "EDGEC_X_LHUX(d, b, a)": "0101000 01100 01011 111 01010 0000011",
    "EDGEC_X_LWX(d, b, a)": "0010000 01100 01011 111 01010 0000011",
    "EDGEC_X_SWP(d, a, 4)": "0000000 01010 01011 010 00100 0101011",
    "EDGEC_X_SHP(d, a, 2)": "0000000 01010 01011 001 00010 0101011",
    "EDGEC_X_SBP(d, a, 1)": "0000000 01010 01011 000 00001 0101011",
    "EDGEC_X_MIN(d, a, b)": "0000010 01100 01011 100 01010 0110011",
    "EDGEC_X_MIN0(d, a)": "0000010 00000 01011 100 01010 0110011",
    "EDGEC_X_MINU(d, a, b)": "0000010 01100 01011 101 01010 0110011",
    "EDGEC_X_MAX(d, a, b)": "0000010 01100 01011 110 01010 0110011",
    "EDGEC_X_MAXU(d, a, b)": "0000010 01100 01011 111 01010 0110011",
    "EDGEC_X_ABS(d, a)": "0000010 00000 01011 000 01010 0110011",
    "EDGEC_X_FL1(d, a)": "0001000 00000 01011 001 01010 0110011",
    "EDGEC_X_MAX0(d, a)": "0000010 00000 01011 110 01010 0110011",
    "EDGEC_X_NEG(d, a)": "0100000 01011 00000 000 01010 0110011",
    "EDGEC_X_MAC(d, a, b)": "0100001 01100 01011 000 01010 0110011",
    "EDGEC_X_MSU(d, a, b)": "0100001 01100 01011 001 01010 0110011",
    "EDGEC_X_RS14(d, a)": "0001110 00000 01011 110 01010 1011011",
    "EDGEC_X_RS23(d, a)": "0010111 00000 01011 110 01010 1011011",
    "EDGEC_X_MULU(d, a, b)": "0000000 01100 01011 000 01010 1011011",
    "EDGEC_X_MULHHU(d, a, b)": "0100000 01100 01011 000 01010 1011011",
    "EDGEC_X_MULU_16(d, a, b)": "0010000 01100 01011 000 01010 1011011",
    "EDGEC_X_MACHHU_1(d, a, b)": "0100001 01100 01011 001 01010 1011011",
    "EDGEC_X_MACHHS(d, a, b)": "1100000 01100 01011 001 01010 1011011",
    "EDGEC_X_ADD_RS(d, a, b)": "0100000 01100 01011 110 01010 1011011",
    "EDGEC_X_MULU_RS15(d, a, b)": "0001111 01100 01011 100 01010 1011011",
    "EDGEC_X_MULU_RS16(d, a, b)": "0010000 01100 01011 100 01010 1011011",
    "EDGEC_X_MULHHU_19(d, a, b)": "0110011 01100 01011 000 01010 1011011",
    "EDGEC_X_MULS_RS11(d, a, b)": "1001011 01100 01011 100 01010 1011011",
    "EDGEC_X_MACU(d, a, b)": "0000000 01100 01011 001 01010 1011011",
    "EDGEC_X_SUB_SRA16(d, a, b)": "0010000 01100 01011 011 01010 1011011",
    "EDGEC_X_RS(d, a)": "0100000 01011 00000 110 01010 1011011",
    "EDGEC_X_RSU(d, a)": "1100000 01011 00000 110 01010 1011011",
    "EDGEC_X_INSERT8(d, a, x1)": "1100111 00001 01011 010 01010 0110011",
    "EDGEC_X_DOT4_SS(d, a, b)": "1001100 01100 01011 001 01010 1010111",
    "EDGEC_X_MAC4_SS(d, a, b)": "1011100 01100 01011 001 01010 1010111",
    "EDGEC_X_MAC4_US(d, a, b)": "1010100 01100 01011 001 01010 1010111",
    "EDGEC_X_SHUFFLE4(d, a, b)": "1100100 01100 01011 001 01010 1010111",
    "EDGEC_X_PACK2(d, a, b)": "1101000 01100 01011 000 01010 1010111",
}

# lp.setup: half words to the end, count in x14 or x15, loop 0 or 1. Bodies of two instructions.
BODY = "EDGEC_X_CLEAR(d) EDGEC_X_CLEAR(d)"
SET_UP = {
    f"EDGEC_X_LOOP(2, {BODY})": "000000000100 01110 100 00000 1111011",
    f"EDGEC_X_OUTER(2, {BODY})": "000000000100 01111 100 00001 1111011",
}
# What these are made of, and instructions of the base set.
PARTS = {"TEXT", "TEXT_OF", "R", "R0", "OP", "OPI", "LUI", "CLEAR", "LW", "NEG"}


def rv32_command(*flags: str) -> list[str]:
    """The compiler with strict flags; skips where there is none."""
    try:
        compiler = find_rv32_compiler()
    except ToolError as error:
        pytest.skip(str(error).splitlines()[0])
    return [*compiler.command, *STRICT, *BARE, *INCLUDES, *flags]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a core, as a program of this machine."""
    program = tmp_path_factory.mktemp("core") / "core"
    sources = [str(path) for path in sorted((HERE / "core").glob("*.c"))]
    compiler = find_host_compiler().command
    compile_c([*compiler, *STRICT, "-O2", *sources, "-o", str(program)])
    return program


def build(directory: Path, *sources: Path) -> Path:
    """An ELF for one bare-metal core with XpulpV2."""
    program = directory / "program.elf"
    files = [*map(str, rv32_port()), *map(str, sources)]
    linker = ["-T", str(PORTS / "rv32" / "link.ld"), "-o", str(program)]
    compile_c([*rv32_command(), *files, *linker])
    return program


@pytest.mark.parametrize("prototype", ENCODINGS)
def test_encoding(tmp_path: Path, prototype: str) -> None:
    kind, _, rest = prototype.partition(" ")
    name, _, parameters = rest.partition("(")
    names = ", ".join(part.split()[-1] for part in parameters.rstrip(")").split(","))
    types = "static" if kind == "static" else kind
    body = f"{types} f({parameters};\n{types} f({parameters} {{ return {name}({names}); }}\n"
    source = tmp_path / "one.c"
    source.write_text('#include "edgec_xpulp.h"\n' + body)
    target = tmp_path / "one.o"
    compile_c([*rv32_command("-c", str(source), "-o", str(target))])
    word = int(ENCODINGS[prototype].replace(" ", ""), 2)
    assert word.to_bytes(4, "little") in target.read_bytes()


def test_every_instruction_in_assembly_has_its_encoding_here() -> None:
    header = (RUNTIME / "include" / "edgec_xpulp_asm.h").read_text(encoding="utf-8")
    defined = set(re.findall(r"#define EDGEC_X_(\w+)\(", header))
    tested = {text.removeprefix("EDGEC_X_").split("(")[0] for text in (*IN_ASSEMBLY, *SET_UP)}
    assert defined - PARTS == tested - PARTS


@pytest.mark.parametrize("macro", [*IN_ASSEMBLY, *SET_UP])
def test_encoding_in_assembly(tmp_path: Path, macro: str) -> None:
    source = tmp_path / "one.c"
    operands = ", ".join(f'[{name}] "+r"({name})' for name in OPERANDS)
    source.write_text(
        '#include "edgec_xpulp_asm.h"\nvoid f(void);\nvoid f(void) {\n'
        + "".join(f'register int {r} __asm__("a{i}") = 0;\n' for i, r in enumerate(OPERANDS))
        + f"__asm__ volatile({macro} : {operands});\n}}\n"
    )
    target = tmp_path / "one.o"
    compile_c([*rv32_command("-c", str(source), "-o", str(target))])
    word = int({**IN_ASSEMBLY, **SET_UP}[macro].replace(" ", ""), 2)
    assert word.to_bytes(4, "little") in target.read_bytes()


def test_instructions_equal_their_definition(tmp_path: Path, core: Path) -> None:
    program = build(tmp_path, HERE / "xpulp_vectors.c")
    simulated = run_program([str(core), str(program)])
    host = tmp_path / "host"
    compiler = find_host_compiler().command
    sources = [str(HERE / "xpulp_vectors.c"), str(PORTS / "host" / "edgec_port.c")]
    compile_c([*compiler, *STRICT, "-O2", "-pthread", *INCLUDES, *sources, "-o", str(host)])
    portable = run_program([str(host)])
    assert (simulated.exit_code, portable.exit_code) == (0, 0)
    assert len(portable.output) == 400 * 15 * 4
    assert simulated.output == portable.output


LOOPS = """
#include "edgec_runner.h"
int main(void);
static const int32_t words[5] = {1, -2, 3, -4, 5};
static int32_t copy[5];
/* The sum of the words, by a hardware loop over post-increment loads and stores. */
int main(void) {
    const int32_t *from = words;
    int32_t *to = copy;
    int32_t sum = 0, word;
    __asm__ volatile(".option push\\n.option norvc\\n"
                     ".insn i 0x7b, 4, x0, %[n], 6\\n"
                     ".insn i 0x0b, 2, %[word], %[from], 4\\n"
                     ".insn s 0x2b, 2, %[word], 4(%[to])\\n"
                     "add %[sum], %[sum], %[word]\\n"
                     ".option pop\\n"
                     : [from] "+r"(from), [to] "+r"(to), [sum] "+r"(sum), [word] "=&r"(word)
                     : [n] "r"(5)
                     : "memory");
    edgec_write(copy, sizeof copy);
    return from == words + 5 && to == copy + 5 ? sum : 99;
}
"""


def test_hardware_loop_and_post_increment(tmp_path: Path, core: Path) -> None:
    source = tmp_path / "loops.c"
    source.write_text(LOOPS)
    result = run_program([str(core), str(build(tmp_path, source))])
    assert result.exit_code == 1 - 2 + 3 - 4 + 5
    assert result.output == b"".join(
        value.to_bytes(4, "little", signed=True) for value in (1, -2, 3, -4, 5)
    )


def test_unknown_instruction_ends_the_run(tmp_path: Path, core: Path) -> None:
    source = tmp_path / "bad.c"
    source.write_text(
        'int main(void);\nint main(void) { __asm__ volatile(".word 0x0000707b"); return 0; }\n'
    )
    program = build(tmp_path, source)
    result = subprocess.run([str(core), str(program)], capture_output=True, check=False)
    assert result.returncode == 98
    assert result.stderr.startswith(b"unknown instruction: 0x0000707b at pc 0x8000")

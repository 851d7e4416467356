"""Which compiler and simulator are taken, and what is said when there is none."""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

import pytest

from toolchain import c_tools
from toolchain.c_tools import (
    Build,
    Compiler,
    check_tools,
    find_host_compiler,
    find_rv32_compiler,
    find_rv32_simulator,
    run_make,
    run_program,
)
from toolchain.device_tree import device_tree
from toolchain.model.errors import MismatchError, ToolError


class Tools:
    """A machine that has just the tools that a test names."""

    def __init__(self, patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.found: set[str] = set()
        self.zig = False
        patch.delenv("CC", raising=False)
        patch.setattr("shutil.which", lambda name: name if name in self.found else None)
        patch.setattr("importlib.util.find_spec", lambda _: self.zig or None)
        patch.setattr("sys.executable", str(tmp_path / "python"))


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    return Tools(monkeypatch, tmp_path)


def test_host_compiler_order(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError) as error:
        find_host_compiler()
    assert "install a C compiler" in str(error.value)
    assert "edgec[rv32]" in str(error.value)
    tools.zig = True
    assert find_host_compiler().command[1:4] == ("-m", "ziglang", "cc")
    tools.found = {"cc"}
    assert find_host_compiler() == Compiler("cc", ("cc",))
    tools.found = {"cc", "mycc"}
    monkeypatch.setenv("CC", "mycc -m32")
    assert find_host_compiler() == Compiler("mycc", ("mycc", "-m32"))
    for wrong in ("nocc", " ", "'"):
        monkeypatch.setenv("CC", wrong)
        with pytest.raises(ToolError, match=r"\$CC") as error:
            find_host_compiler()
        assert error.value.problems[0].found == repr(wrong)


def test_rv32_compiler_order(tools: Tools) -> None:
    with pytest.raises(ToolError, match="gcc-riscv64-unknown-elf"):
        find_rv32_compiler()
    tools.found = {"riscv64-unknown-elf-gcc"}
    assert find_rv32_compiler().command[1:] == ("-march=rv32imc_zicsr", "-mabi=ilp32")
    tools.zig = True
    assert find_rv32_compiler().name == "zig cc"


def test_rv32_simulator_order(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="qemu-user"):
        find_rv32_simulator(tmp_path)
    tools.found = {"qemu-riscv32"}
    assert find_rv32_simulator(tmp_path).linux
    tools.found = {"qemu-riscv32", "spike"}
    simulator = find_rv32_simulator(tmp_path)
    assert (simulator.name, simulator.linux) == ("spike", False)
    assert (tmp_path / "machine.dtb").is_file()


def test_make_is_needed(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="make"):
        run_make(Build(tmp_path, tmp_path, "host", Compiler("cc", ("cc",)), ("lib",)))


def test_everything_that_is_missing_is_named_at_once(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(ToolError) as error:
        check_tools(("host", "rv32"), tmp_path)
    text = str(error.value)
    for word in ("install make", "C compiler", "gcc-riscv64-unknown-elf", "qemu-user"):
        assert word in text
    tools.found = {"cc"}
    with pytest.raises(ToolError, match="`make` is not installed"):
        check_tools(("host",), tmp_path)
    tools.found = {"cc", "make"}
    check_tools(("host",), tmp_path)


def test_make_builds_where_no_path_is_plain(tmp_path: Path) -> None:
    bundle, out = tmp_path / "a b", tmp_path / "$c #d"
    (bundle / "src").mkdir(parents=True)
    (bundle / "src" / "in").write_text("x")
    (bundle / "Makefile").write_text("all: $(OUT)/done\n$(OUT)/done: src/in\n\tcp $< $@\n")
    for _ in range(2):
        run_make(Build(bundle, out, "host", Compiler("cc", ("cc",)), ("all",)))
    assert (out / "done").read_text() == "x"
    assert sorted(path.name for path in bundle.iterdir()) == ["Makefile", "src"]


def test_make_takes_nothing_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Makefile").write_text(
        "all:\n\t@test -z '$(CFLAGS)$(LDFLAGS)$(STEPS)' && test '$(CC)' = 'a b'\n"
    )
    for name in ("CFLAGS", "LDFLAGS", "STEPS", "CC", "MAKEFLAGS"):
        monkeypatch.setenv(name, "n")
    run_make(Build(tmp_path, tmp_path, "host", Compiler("x", ("a", "b")), ("all",)))


def test_programs_that_hang_or_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_tools, "RUN_SECONDS", 0.2)
    with pytest.raises(MismatchError, match="did not end"):
        run_program([sys.executable, "-c", "import time; time.sleep(9)"])
    with pytest.raises(ToolError, match="cannot be started"):
        run_program(["/nowhere/program"])
    run = run_program([sys.executable, "-c", "import sys; sys.stderr.write('e'); sys.exit(3)"])
    assert (run.exit_code, run.output, run.errors) == (3, b"", "e")


def test_children_of_a_hanging_program_are_killed(tmp_path: Path) -> None:
    script = "sleep 60 & echo $! > child; wait"
    command = ["sh", "-c", f"cd '{tmp_path}'; {script}"]
    with pytest.raises(MismatchError, match="the nap did not end"):
        run_program(command, what="the nap", seconds=0.3)
    status = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    for _ in range(50):  # its adoptive parent may still have to take note
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child lives")


def test_output_goes_to_a_file(tmp_path: Path) -> None:
    run = run_program(["sh", "-c", "echo out; echo err >&2"], output=tmp_path / "file")
    assert (run.output, run.errors, run.exit_code) == (b"", "err\n", 0)
    assert (tmp_path / "file").read_text() == "out\n"


def test_device_tree_structure() -> None:
    """Walk the tokens of the structure block, as a reader would."""
    data = device_tree("rv32imc", (0x8000_0000, 0x400_0000))
    head = struct.unpack(">10I", data[:40])
    magic, total, structure, strings, _, version = head[:6]
    assert (magic, total, version) == (0xD00DFEED, len(data), 17)
    assert strings + head[8] == total
    assert structure + head[9] == strings
    position, nodes, properties = structure, [], {}
    depth = 0
    while (token := struct.unpack_from(">I", data, position)[0]) != 9:
        position += 4
        if token == 1:
            end = data.index(b"\0", position)
            nodes.append(data[position:end].decode())
            position += (end - position) // 4 * 4 + 4
            depth += 1
        elif token == 3:
            size, offset = struct.unpack_from(">2I", data, position)
            name = data[strings + offset : data.index(b"\0", strings + offset)].decode()
            properties[nodes[-1], name] = data[position + 8 : position + 8 + size]
            position += 8 + (size + 3) // 4 * 4
        else:
            assert token == 2
            depth -= 1
    assert depth == 0
    assert nodes == ["", "cpus", "cpu@0", "memory@80000000"]
    assert properties["cpu@0", "riscv,isa"] == b"rv32imc\0"
    reg = struct.pack(">4I", 0, 0x8000_0000, 0, 0x400_0000)
    assert properties["memory@80000000", "reg"] == reg

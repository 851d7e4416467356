"""The runtime compiled for RV32, run on the model of a cluster core.

Kernels see exactly the arrays that they are given: whatever lies beside them is not there, and only
arrays of `Guarded` can be written.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_uint32, c_uint64
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.c.runtime import (
    FUSED_EXPORTS,
    INCLUDES,
    MAX_CORES,
    RUNTIME,
    STRICT,
    AnyArray,
    Guarded,
    KVCacheView,
    compile_c,
    pointer,
    rv32_port,
)
from toolchain.c_tools import Compiler, find_host_compiler

HERE = Path(__file__).parent
PARTIAL = 32  # bytes of an edgec_partial
FLAGS = ("-O2", "-ffreestanding", "-nostdlib", "-static")
MAIN = "int main(void);\nint main(void) { return 0; }\n"


class CoreRuntime:
    """A team of RV32 cores, with or without XpulpV2."""

    def __init__(self, directory: Path, compiler: Compiler, *flags: str) -> None:
        library = directory / "core.so"
        model = [HERE / "core_library.c", *(HERE / "core" / f for f in MODEL)]
        command = [*find_host_compiler().command, *STRICT, "-O2", "-fPIC", "-shared"]
        compile_c([*command, *map(str, model), "-o", str(library)])
        program = directory / "kernels.elf"
        main = directory / "main.c"
        main.write_text(MAIN)
        port = RUNTIME / "port" / "rv32"
        files = [main, FUSED_EXPORTS, *(RUNTIME / "src").glob("*.c"), *rv32_port()]
        linking = ["-Wl,--no-gc-sections", "-T", str(port / "link.ld"), "-o", str(program)]
        build = [*compiler.command, *STRICT, *FLAGS, *flags, *INCLUDES]
        compile_c([*build, *map(str, sorted(files)), *linking])
        self._library = ctypes.CDLL(str(library))
        self._library.library_symbol.restype = c_uint32
        self._library.library_map.restype = c_uint32
        self._library.library_call.restype = c_char_p
        assert self._library.library_open(str(program).encode()) == 1

    def function(self, name: str) -> int:
        """A function's address, as an argument of another one."""
        address = self._library.library_symbol(name.encode())
        assert address, f"the runtime has no function {name}"
        return int(address)

    def run(self, cores: int, kernel: str, *arguments: Any) -> None:
        """Call `kernel` on every core of a team; arrays are passed as pointers."""
        self._library.library_clear()
        words: list[int] = []
        kept: list[AnyArray] = []
        for value in arguments:
            words += self._words(value, kept)
        partials = np.full(MAX_CORES * PARTIAL, 0xA5, np.uint8)
        shared = self._map(partials, False)
        workers = []
        for core in range(cores):
            kept.append(np.array([core, cores, 0, shared], np.uint32))
            workers.append(self._map(kept[-1], True))
        message = self._library.library_call(
            *(c_uint32(self.function(kernel)), c_uint32(cores)),
            *(_array(workers), _array(words), c_uint32(len(words))),
        )
        assert message is None, f"{kernel}: {message.decode()}"

    def _words(self, value: Any, kept: list[AnyArray]) -> list[int]:
        """The 32-bit words of an argument, in the order of the calling convention."""
        if isinstance(value, np.ndarray):
            return [self._map(value, value.ctypes.data not in Guarded.known)]
        if isinstance(value, KVCacheView):
            arrays = [Guarded.known[getattr(value, field[0])] for field in value._fields_]
            kept.append(np.array([self._map(a, False) for a in arrays], np.uint32))
            return [self._map(kept[-1], True)]
        if isinstance(value, Structure):
            kept.append(np.frombuffer(bytes(value), np.uint8).copy())
            return [self._map(kept[-1], True)]
        if isinstance(value, c_uint64):
            return [value.value & 0xFFFFFFFF, value.value >> 32]
        return [int(value) & 0xFFFFFFFF]

    def _map(self, array: npt.NDArray[Any], read_only: bool) -> int:
        address = self._library.library_map(
            pointer(array), c_uint32(array.nbytes), c_int(read_only)
        )
        assert address
        return int(address)


MODEL = ("core.c", "compressed.c", "elf.c", "xpulp.c")


def _array(words: list[int]) -> Any:
    return ctypes.cast((c_uint32 * len(words))(*words), POINTER(c_uint32))

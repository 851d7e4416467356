"""The runtime as a shared library for the host, called through ctypes on teams of any size."""

from __future__ import annotations

import ctypes
import subprocess
import weakref
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_int32, c_uint32, c_void_p
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tests.paths import REPOSITORY
from toolchain.c_tools import find_host_compiler

RUNTIME = REPOSITORY / "templates" / "runtime"
INCLUDES = ("-I", str(RUNTIME / "include"), "-I", str(RUNTIME / "src"))
STRICT = (
    *("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow"),
    *("-Wundef", "-Wstrict-prototypes", "-Werror"),
)
MAX_CORES = 16
FUSED_EXPORTS = Path(__file__).with_name("fused_exports.c")
STATUS = (
    *("OK", "BAD_ARGUMENT", "MISALIGNED", "BAD_MAGIC", "BAD_VERSION", "BAD_BYTE_ORDER"),
    *("BAD_TARGET", "BAD_GRAPH", "BAD_LENGTH", "BAD_HEADER_CRC", "BAD_PAYLOAD_CRC"),
    *("CONTEXT_FULL", "BAD_TOKEN", "MIXED_BLOBS"),
)

AnyArray = npt.NDArray[Any]


def sources() -> list[Path]:
    """All C files of the runtime and of the host port."""
    return sorted((RUNTIME / "src").glob("*.c")) + sorted((RUNTIME / "port" / "host").glob("*.c"))


def rv32_port() -> list[Path]:
    """C and assembly of the rv32 port."""
    folders = (RUNTIME / "port" / name for name in ("rv32", "bare"))
    return sorted(path for folder in folders for path in folder.glob("*.[cS]"))


class Worker(Structure):
    """edgec_worker."""

    _fields_ = [
        ("id", c_uint32),
        ("count", c_uint32),
        ("team", c_void_p),
        ("partials", c_void_p),
    ]


class Matrix(Structure):
    """edgec_matrix."""

    _fields_ = [
        (name, c_uint32)
        for name in (
            *("rows", "columns", "group_size", "field_bits", "record_size", "records_per_tile"),
            *("slot_size", "has_requant", "slots"),
        )
    ]


class AttentionParams(Structure):
    """edgec_attention_params."""

    _fields_ = [
        *((n, c_uint32) for n in ("heads", "kv_heads", "head_dim", "context")),
        *((n, c_uint32) for n in ("positions_per_chunk", "slot_size", "slots")),
        ("score_multiplier", c_int32),
        ("score_exponent", c_int32),
        ("exp_bits", c_uint32),
    ]


class KVCacheView(Structure):
    """edgec_kv_cache."""

    _fields_ = [(name, c_void_p) for name in ("k", "k_scale", "v", "v_scale")]


class BlobExpect(Structure):
    """edgec_blob_expect."""

    _fields_ = [
        *((n, c_uint32) for n in ("target", "region", "length", "alignment")),
        ("graph_hash", c_void_p),
    ]


ENTRY = ctypes.CFUNCTYPE(None, POINTER(Worker), c_void_p)


class Runtime:
    """A runtime compiled for this machine."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.edgec_crc32.restype = c_uint32

    def function(self, name: str) -> Any:
        """A function's address, as an argument of another one."""
        return ctypes.cast(getattr(self.library, name), c_void_p)

    def run(self, cores: int, kernel: str, *arguments: Any) -> None:
        """Call `kernel` on every core of a team; arrays are passed as pointers."""
        function = getattr(self.library, kernel)
        converted = [argument(a) for a in arguments]
        entry = ENTRY(lambda worker, _: function(worker, *converted))
        partials = np.full(MAX_CORES * 32, 0xA5, np.uint8)
        status = self.library.edgec_run_team(
            c_uint32(cores), pointer(partials), entry, c_void_p(None)
        )
        assert status == 0


def argument(value: Any) -> Any:
    """A ctypes value: arrays by address, structures by reference, ints as 32 bits."""
    if isinstance(value, np.ndarray):
        return pointer(value)
    if isinstance(value, Structure):
        return ctypes.byref(value)
    if isinstance(value, int):
        return c_uint32(value & 0xFFFFFFFF)
    return value


def pointer(value: AnyArray) -> c_void_p:
    assert value.flags.c_contiguous
    return c_void_p(value.ctypes.data)


class Guarded:
    """Output arrays between canaries, so that a kernel that writes beside its output is caught.

    `known`: those that still exist, by address.
    """

    PAD = 64
    known: ClassVar[weakref.WeakValueDictionary[int, AnyArray]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._whole: list[npt.NDArray[np.uint8]] = []
        self._arrays: list[AnyArray] = []

    def array(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> AnyArray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        whole = np.full(size + 2 * self.PAD, 0x5A, np.uint8)
        self._whole.append(whole)
        inside = whole[self.PAD : self.PAD + size].view(dtype).reshape(shape)
        self._arrays.append(inside)
        self.known[inside.ctypes.data] = inside
        return inside

    def check(self) -> None:
        for whole in self._whole:
            assert (whole[: self.PAD] == 0x5A).all(), "written before the beginning"
            assert (whole[-self.PAD :] == 0x5A).all(), "written past the end"


def build_library(directory: Path, flags: Sequence[str] = ("-O2",)) -> Path:
    """Compile the runtime, the host port and the exports into a shared library."""
    library = directory / "runtime.so"
    files = [*sources(), Path(__file__).with_name("math_exports.c"), FUSED_EXPORTS]
    command = [*find_host_compiler().command, *STRICT, *flags, "-g", "-fPIC", "-shared", "-pthread"]
    compile_c([*command, *INCLUDES, *map(str, files), "-o", str(library)])
    return library


def compile_c(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

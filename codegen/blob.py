"""Weight blobs: one file per memory region with header, table of contents and tensors.

`build_blobs` writes them where the plan says, `read_blob` reads one back and refuses anything that
is not exactly such a blob. The layout is docs/packing.md 4 and edgec_blob.h; fields are written
one by one in little-endian order, never as a struct of the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

import numpy as np

from codegen.serialize import graph_hash
from memory_planner.footprint import BLOB_ENTRY_SIZE as ENTRY_SIZE
from memory_planner.footprint import BLOB_HEADER_SIZE as HEADER_SIZE
from memory_planner.plan import Placement, Plan, RegionPlan
from toolchain.model.engine_packing import EngineLayout, pack_engine
from toolchain.model.errors import BundleError, InternalError, Problem
from toolchain.model.matrix_storage import pack_matrix, unpack_matrix
from toolchain.model.packing import WeightInts
from toolchain.model.program import Kind, Program, TensorSpec
from toolchain.model.requant_table import RequantLayout, pack_requant_table
from toolchain.model.sparse_packing import SparseLayout

MAGIC = b"EDGECBLB"
VERSION = 1
BYTE_ORDER_MARK = 0x01020304
BUILD_ID_SIZE = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a blob."""

    name_crc: int  # CRC-32 of its name
    offset: int  # bytes from the start of the blob
    size: int
    packing: int  # code of the packing format, 0 for a plain array


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that passed every check."""

    target_crc: int  # CRC-32 of the target's name
    region_crc: int  # CRC-32 of the region's name
    graph_hash: bytes  # 32 bytes
    build_id: bytes  # 16 bytes, the same in all blobs of one build
    first_offset: int  # of the first tensor
    entries: tuple[Entry, ...]
    data: bytes  # the whole file

    def tensor(self, name: str) -> bytes:
        """Bytes of the tensor called `name`; raises BundleError when the blob has none."""
        wanted = crc32(name.encode())
        for entry in self.entries:
            if entry.name_crc == wanted:
                return self.data[entry.offset : entry.offset + entry.size]
        raise BundleError(f"the weight blob has no tensor {name}")


def build_blobs(program: Program, plan: Plan) -> dict[str, bytes]:
    """The blob of every region that holds constants, in the order of the plan's regions."""
    payloads = {
        region.name: _build_payload(program, plan, region)
        for region in plan.regions
        if region.blob_size
    }
    digest = sha256(b"".join(sha256(payload).digest() for payload in payloads.values()))
    identity = graph_hash(program, plan) + digest.digest()[:BUILD_ID_SIZE]
    return {
        name: _header(plan, plan.region(name), identity, payload) + payload[HEADER_SIZE:]
        for name, payload in payloads.items()
    }


def _build_payload(program: Program, plan: Plan, region: RegionPlan) -> bytes:
    """A blob whose header is still zero."""
    placed = stored_tensors(program, plan, region)
    first = plan.blob_headers[region.name]
    if HEADER_SIZE + ENTRY_SIZE * len(placed) > first:
        raise InternalError(f"the header of blob {region.name} is larger than the plan's {first}")
    if len({crc32(tensor.name.encode()) for tensor, _ in placed}) != len(placed):
        raise InternalError(f"two tensors of blob {region.name} have names of equal CRC-32")
    data = bytearray(region.blob_size)
    position = HEADER_SIZE
    for tensor, placement in placed:
        offset = placement.offset - region.blob_base
        content = _content(program, tensor)
        if len(content) != tensor.size or offset + len(content) > len(data):
            raise InternalError(f"{tensor.name} does not fill its place in blob {region.name}")
        data[offset : offset + len(content)] = content
        code = tensor.layout.format.code if tensor.layout else 0
        entry = _words(crc32(tensor.name.encode()), offset, len(content), code)
        data[position : position + ENTRY_SIZE] = entry
        position += ENTRY_SIZE
    return bytes(data)


def stored_tensors(
    program: Program, plan: Plan, region: RegionPlan
) -> list[tuple[TensorSpec, Placement]]:
    """Weights and constants that live in `region`, in the order of their addresses."""
    placed = [
        (tensor, plan.placements[tensor.name])
        for tensor in program.tensors.values()
        if tensor.kind in {Kind.WEIGHT, Kind.CONST}
        and plan.placements[tensor.name].region == region.name
    ]
    return sorted(placed, key=lambda item: item[1].offset)


def _content(program: Program, tensor: TensorSpec) -> bytes:
    value = program.constants[tensor.name]
    if isinstance(value, WeightInts):
        if tensor.layout is None:
            raise InternalError(f"{tensor.name} has packed integers and no layout")
        if isinstance(tensor.layout, EngineLayout):
            return pack_engine(value, tensor.layout)
        if isinstance(tensor.layout, RequantLayout):
            return pack_requant_table(value, tensor.layout)
        return pack_matrix(value, tensor.layout)
    dtype = np.dtype(tensor.dtype.value)
    if value.shape != tensor.shape or value.dtype != dtype:
        raise InternalError(f"{tensor.name} is {value.dtype}{value.shape}, declared {tensor}")
    return np.ascontiguousarray(value).astype(dtype.newbyteorder("<")).tobytes()


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def _header(plan: Plan, region: RegionPlan, identity: bytes, data: bytes) -> bytes:
    entries = sum(
        place.region == region.name and place.offset < region.arena_base
        for place in plan.placements.values()
    )
    head = (
        MAGIC
        + VERSION.to_bytes(2, "little")
        + HEADER_SIZE.to_bytes(2, "little")
        + _words(
            BYTE_ORDER_MARK,
            crc32(plan.target.encode()),
            crc32(region.name.encode()),
            entries,
            plan.blob_headers[region.name],
            len(data),
            crc32(memoryview(data)[HEADER_SIZE:]),
        )
        + identity
        + bytes(92 - 40 - len(identity))
    )
    return head + _words(crc32(head))


def read_blob(data: bytes, where: str = "weight blob") -> Blob:
    """Decode and check a blob.

    Raises BundleError naming `where` and everything that is wrong: magic, version, byte order,
    lengths, CRC of the header or of the payload, overlapping or outlying tensors.
    """
    problems = _identity_problems(data) or _header_problems(data)
    if not problems:
        blob = _decode(data)
        problems = _content_problems(blob)
        if not problems:
            return blob
    raise BundleError(f"{where} is damaged or not a weight blob", problems)


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _identity_problems(data: bytes) -> list[Problem]:
    if len(data) < HEADER_SIZE:
        return [Problem("length", f"{len(data)} bytes", f"at least {HEADER_SIZE} bytes")]
    if data[:8] != MAGIC:
        return [Problem("magic", repr(data[:8]), repr(MAGIC))]
    version = int.from_bytes(data[8:10], "little")
    if version != VERSION:
        return [Problem("format version", str(version), str(VERSION))]
    return []


def _header_problems(data: bytes) -> list[Problem]:
    checks = [
        ("header size", int.from_bytes(data[10:12], "little"), HEADER_SIZE),
        ("byte order mark", _u32(data, 12), BYTE_ORDER_MARK),
        ("length in the header", _u32(data, 32), len(data)),
        ("CRC-32 of the header", _u32(data, 92), crc32(data[:92])),
        ("CRC-32 of the payload", _u32(data, 36), crc32(memoryview(data)[HEADER_SIZE:])),
        ("reserved bytes", int.from_bytes(data[88:92], "little"), 0),
    ]
    problems = [Problem(what, hex(got), hex(want)) for what, got, want in checks if got != want]
    entries, first = _u32(data, 24), _u32(data, 28)
    if not HEADER_SIZE + ENTRY_SIZE * entries <= first <= len(data):
        allowed = f"{HEADER_SIZE + ENTRY_SIZE * entries}..{len(data)} for {entries} entries"
        problems.append(Problem("offset of the first tensor", str(first), allowed))
    return problems


def _decode(data: bytes) -> Blob:
    starts = range(HEADER_SIZE, HEADER_SIZE + ENTRY_SIZE * _u32(data, 24), ENTRY_SIZE)
    entries = tuple(Entry(*(_u32(data, start + 4 * i) for i in range(4))) for start in starts)
    return Blob(
        _u32(data, 16), _u32(data, 20), data[40:72], data[72:88], _u32(data, 28), entries, data
    )


def _content_problems(blob: Blob) -> list[Problem]:
    problems = []
    free = blob.first_offset
    for index, entry in enumerate(blob.entries):
        end = entry.offset + entry.size
        if entry.offset < free or end > len(blob.data):
            allowed = f"{free}..{len(blob.data)}, behind the tensor before it"
            problems.append(Problem(f"tensor {index}", f"{entry.offset}..{end}", allowed))
        free = max(free, end)
    if len({entry.name_crc for entry in blob.entries}) != len(blob.entries):
        problems.append(Problem("names", "one of them twice", "distinct names"))
    return problems


def check_blob(
    blob: Blob, program: Program, plan: Plan, region: RegionPlan, hash_bytes: bytes
) -> list[Problem]:
    """What in `blob` disagrees with the plan it should belong to."""
    expected = tuple(
        Entry(
            crc32(tensor.name.encode()),
            placement.offset - region.blob_base,
            tensor.size,
            tensor.layout.format.code if tensor.layout else 0,
        )
        for tensor, placement in stored_tensors(program, plan, region)
    )
    where = f"weights/{region.name}.bin"
    checks: Mapping[str, tuple[object, object]] = {
        "target": (blob.target_crc, crc32(plan.target.encode())),
        "region": (blob.region_crc, crc32(region.name.encode())),
        "graph hash": (blob.graph_hash.hex(), hash_bytes.hex()),
        "length": (len(blob.data), region.blob_size),
        "table of contents": (blob.entries, expected),
    }
    problems = [
        Problem(f"{where}: {what}", str(got), str(want))
        for what, (got, want) in checks.items()
        if got != want
    ]
    return problems or [*_check_indices(blob, program, plan, region)]


def _check_indices(
    blob: Blob, program: Program, plan: Plan, region: RegionPlan
) -> Iterator[Problem]:
    """Sparse matrices can hold bytes that mean nothing."""
    for tensor, _ in stored_tensors(program, plan, region):
        if isinstance(tensor.layout, SparseLayout):
            try:
                unpack_matrix(blob.tensor(tensor.name), tensor.layout)
            except ValueError as error:
                yield Problem(f"weights/{region.name}.bin: {tensor.name}", str(error), "an index")

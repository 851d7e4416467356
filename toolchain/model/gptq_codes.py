"""Integer codes of GPTQ and AWQ checkpoints: qweight, qzeros, scales and g_idx of one matrix.

A weight is scale * (code - zero). The codes of an output are a stream of bits along the inputs that
begins at bit 0 of word 0, and so are the zero points of a group along the outputs; `gptq` stores
zero - 1, `gptq_v2` zero itself. g_idx names the group of every input, in any order (desc_act).
Codes and zero points are taken over as they are: what is compiled are the integers code - zero,
column by column of the order in which groups follow each other (input_order.py).

AWQ (`gemm`, 4 bits): a row of qweight is an input, a word has eight outputs, output AWQ_ORDER[i] in
bits 4 i to 4 i + 3; qzeros likewise, zero points as they are. Groups are consecutive inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.gptq_settings import AWQ, AWQ_BITS, V1
from toolchain.model.input_order import (
    MAX_INPUTS,
    Order,
    column_order,
    folds,
    original_order,
)
from toolchain.model.safetensors_file import TensorRef

PARTS = ("qweight", "qzeros", "scales")
OPTIONAL_PARTS = ("g_idx", "bias")
WORD_BITS = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # outputs of a word, lowest bits first
FEWEST_BITS, MOST_BITS = 2, 8  # of code - zero, as the kernels store it
_CHUNK_FIELDS = 1 << 22

I32 = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class CodeMatrix:
    """One quantized matrix: weight = values * scales of its group."""

    values: npt.NDArray[np.int16]  # code - zero, (n_out, n_in), -255..255; columns in `order`
    scales: npt.NDArray[np.float32]  # as stored, (n_out, n_groups), >= 0
    group_size: int
    order: Order | None = None  # column j is input order[j]; None: as the inputs are

    def dequantize(self) -> npt.NDArray[np.float32]:
        """(n_out, n_in) by input; exact, since a float16 times 9 bits fits a float32."""
        return original_order(self.columns(), self.order)

    def columns(self) -> npt.NDArray[np.float32]:
        """The same in the order of the stored columns."""
        scales = np.repeat(self.scales, self.group_size, axis=1)[:, : self.values.shape[1]]
        return self.values.astype(np.float32) * scales


@dataclass(frozen=True, slots=True)
class CodeRef:
    """Where the parts of a matrix lie, checked against its shape by `check_shapes`."""

    module: str  # name without ".weight"
    shape: tuple[int, int]  # (n_out, n_in)
    bits: int
    group_size: int  # 1..n_in
    version: str
    parts: dict[str, TensorRef]

    @property
    def groups(self) -> int:
        """Scales per output."""
        return -(-self.shape[1] // self.group_size)

    def read(self) -> CodeMatrix:
        """The integers and scales; raises CheckpointError for scales that are no scales."""
        scales = np.ascontiguousarray(self.parts["scales"].read().T)
        bad = ~np.isfinite(scales) | (scales < 0)
        if bad.any():
            found = f"{int(bad.sum())} negative, NaN or infinite values"
            problem = Problem(f"tensor {self.module}.scales", found, "finite values of at least 0")
            raise CheckpointError("the scales of a quantized matrix are broken", [problem])
        codes, order = self.codes(), self.order()
        if order is not None:
            codes = codes[:, order]
        zeros = np.repeat(self.zeros(), self.group_size, axis=1)[:, : self.shape[1]]
        values = codes.astype(np.int16) - zeros
        # A scale of 0 makes the weights 0, whatever the codes are.
        dead = np.repeat(scales == 0, self.group_size, axis=1)[:, : self.shape[1]]
        values[dead] = 0
        return CodeMatrix(values, scales, self.group_size, order)

    def codes(self) -> Codes:
        """Codes by output and input, (n_out, n_in)."""
        if self.version == AWQ:
            return np.ascontiguousarray(_awq_fields(self.words("qweight")).T)
        return unpack_fields(self.words("qweight").T, self.bits, self.shape[1])

    def order(self) -> Order | None:
        """The order of the inputs by group; None when they are in order, or in one group."""
        if self.groups == 1 or "g_idx" not in self.parts:
            return None
        return column_order(self.words("g_idx"))

    def zeros(self) -> npt.NDArray[np.int16]:
        """Zero points, (n_out, n_groups)."""
        if self.version == AWQ:
            return np.ascontiguousarray(_awq_fields(self.words("qzeros")).T.astype(np.int16))
        stored = unpack_fields(self.words("qzeros"), self.bits, self.shape[0]).T.astype(np.int16)
        return stored + (1 if self.version == V1 else 0)

    def words(self, part: str) -> I32:
        """A stored array of words."""
        ref = self.parts[part]
        return ref.raw().view(np.ndarray).view("<i4").reshape(ref.shape)

    def is_symmetric(self) -> bool:
        """Whether every zero point is in the middle of the codes."""
        return bool((self.zeros() == 1 << (self.bits - 1)).all())

    def is_zero(self) -> bool:
        """Whether all weights are 0: codes at the zero points, or scales of 0."""
        return self.first_zeros() == self.shape[1] and not self.read().values.any()

    def first_zeros(self) -> int:
        """How many weights of the first output are 0."""
        columns = self.shape[1]
        group: npt.NDArray[np.integer] = np.arange(columns) // self.group_size
        if self.groups > 1 and "g_idx" in self.parts:
            group = self.words("g_idx")
        words = self.words("qweight")[:, :1]
        is_awq = self.version == AWQ
        codes = _awq_fields(words).T if is_awq else unpack_fields(words.T, self.bits, columns)
        dead = self.parts["scales"].read()[:, 0] == 0
        return int(np.count_nonzero((codes[0] == self.zeros()[0][group]) | dead[group]))

    def stored_bits(self) -> int | None:
        """Bits of the narrowest signed integer that holds every code - zero; None beyond 8.

        With zero points in the middle, the bits of the codes.
        """
        if self.is_symmetric():
            return self.bits
        values = self.read().values
        low, high = int(values.min()), int(values.max())
        widths = range(FEWEST_BITS, MOST_BITS + 1)
        fits = (b for b in widths if -(1 << (b - 1)) <= low and high < 1 << (b - 1))
        return next(fits, None)


def check_shapes(ref: CodeRef) -> Iterator[Problem]:
    """What contradicts the shape of the matrix, its bits and its groups."""
    (rows, columns), is_awq = ref.shape, ref.version == AWQ
    words = {_words(columns, ref.bits), _words(-(-columns // WORD_BITS) * WORD_BITS, ref.bits)}
    zeros = {_words(rows, ref.bits), _words(-(-rows // WORD_BITS) * WORD_BITS, ref.bits)}
    wanted: dict[str, tuple[str | None, set[tuple[int, ...]]]] = {
        "qweight": ("I32", {(columns, rows // 8)} if is_awq else {(n, rows) for n in words}),
        "qzeros": ("I32", {(ref.groups, n) for n in ({rows // 8} if is_awq else zeros)}),
        "scales": (None, {(ref.groups, rows)}),
        "g_idx": ("I32", {(columns,)}),
        "bias": (None, {(rows,)}),
    }
    for part, (dtype, shapes) in wanted.items():
        found = ref.parts.get(part)
        if found is None:
            if part in PARTS:
                yield Problem(f"tensor {ref.module}.{part}", "nothing", _shown(shapes))
            continue
        right = found.dtype == dtype if dtype else found.dtype != "I32"
        if found.shape not in shapes or not right:
            settings = f"{ref.bits} bits in groups of {ref.group_size}"
            allowed = f"{dtype or 'floats of'} {_shown(shapes)} for {settings}"
            where = f"tensor {ref.module}.{part}"
            yield Problem(where, f"{found.dtype} {list(found.shape)}", allowed)


def check_contents(ref: CodeRef) -> Iterator[Problem]:
    """What is well-formed but has no exact integer program, or no meaning that writers agree on."""
    columns = ref.shape[1]
    if "g_idx" in ref.parts and ref.groups > 1:
        groups = ref.words("g_idx")
        if not np.array_equal(np.sort(groups), np.arange(columns) // ref.group_size):
            last = columns - (ref.groups - 1) * ref.group_size
            yield Problem(
                f"{ref.module}.g_idx",
                "groups of other sizes",
                f"{ref.group_size} inputs in each of the groups 0..{ref.groups - 1}, "
                f"{last} in the last",
                "quantize with a group size that holds for all groups",
            )
        elif columns > MAX_INPUTS and ref.order() is not None and not folds(ref.module):
            found = f"{columns} inputs in the order of desc_act"
            yield Problem(ref.module, found, f"at most {MAX_INPUTS}", "use desc_act=False")
    if "bias" in ref.parts and ref.parts["bias"].read().any():
        yield Problem(f"{ref.module}.bias", "values other than 0", "no bias")
    if ref.version == V1:
        stored = unpack_fields(ref.words("qzeros"), ref.bits, ref.shape[0])
        if (stored == (1 << ref.bits) - 1).any():
            yield Problem(
                f"{ref.module}.qzeros",
                f"stored zero points of {(1 << ref.bits) - 1} in format gptq, which stand for "
                f"0 or {1 << ref.bits} depending on the writer",
                "a smaller value, or format gptq_v2",
                "save the checkpoint in format gptq_v2",
            )
            return
    if ref.stored_bits() is None:
        yield Problem(
            ref.module,
            f"zero points off the middle: code - zero exceeds {MOST_BITS} bits",
            "-128..127",
            "quantize with sym=True, or with 4 bits",
        )


def _awq_fields(words: I32) -> Codes:
    """All fields of every row of words, in the order of the outputs: uint8 (rows, 8 * words)."""
    fields = unpack_fields(words, AWQ_BITS, 8 * words.shape[1])
    ordered = np.empty_like(fields).reshape(len(fields), -1, 8)
    ordered[:, :, AWQ_ORDER] = fields.reshape(ordered.shape)
    return ordered.reshape(fields.shape)


def unpack_fields(words: I32, bits: int, count: int) -> Codes:
    """The first `count` fields of every row of a stream of words: uint8 (rows, count)."""
    raw = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        fields = (raw[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
        return np.ascontiguousarray(fields.reshape(len(raw), -1)[:, :count])
    rows = max(1, _CHUNK_FIELDS // max(count, 1))
    pieces = [_spread(raw[at : at + rows], bits, count) for at in range(0, len(raw), rows)]
    return np.concatenate(pieces)


def _spread(raw: Codes, bits: int, count: int) -> Codes:
    stream = np.unpackbits(raw, axis=1, count=count * bits, bitorder="little")
    return np.packbits(stream.reshape(len(raw), count, bits), axis=2, bitorder="little")[:, :, 0]


def _words(fields: int, bits: int) -> int:
    return -(-fields * bits // WORD_BITS)


def _shown(shapes: set[tuple[int, ...]]) -> str:
    return " or ".join(str(list(shape)) for shape in sorted(shapes))

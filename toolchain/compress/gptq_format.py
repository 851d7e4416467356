"""Integer weights in the layout of GPTQ checkpoints: codes, zero points and scales of one matrix.

A weight is scale * (code - zero). The codes of an output lie one behind the other along the inputs,
as a stream of bits that begins at bit 0 of word 0; so do the zero points of a group along the
outputs. That is the layout of GPTQModel for 2, 3, 4 and 8 bits (its three words of 3-bit codes are
such a stream). `gptq` stores zero - 1, `gptq_v2` stores zero itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from toolchain.compress.checkpoint import Tensor

BITS = (2, 3, 4, 8)  # the library has other layouts of 5 to 7 bits, which edgec does not write
V1, V2 = "gptq", "gptq_v2"


@dataclass(frozen=True, slots=True, eq=False)
class CodeMatrix:
    """One quantized matrix."""

    bits: int
    codes: Tensor  # uint8 (n_out, n_in), 0..2^bits-1
    zeros: Tensor  # uint8 (n_out, groups), 0..2^bits-1
    scales: Tensor  # float16 (n_out, groups), > 0
    group_of: Tensor  # int64 (n_in,)

    def decode(self) -> Tensor:
        """The weights, float32 (n_out, n_in); a code that equals its zero point gives exactly 0."""
        zeros = self.zeros.float()[:, self.group_of]
        return (self.codes.float() - zeros) * self.scales.float()[:, self.group_of]

    def tensors(self, module: str, checkpoint_format: str) -> dict[str, Tensor]:
        """The tensors of a checkpoint under the module's name."""
        stored = self.zeros.to(torch.int16) - (1 if checkpoint_format == V1 else 0)
        zeros = (stored.numpy() & ((1 << self.bits) - 1)).astype(np.uint8)
        weights = np.ascontiguousarray(_words(self.codes.numpy(), self.bits).T)
        packed = (torch.from_numpy(weights), torch.from_numpy(_words(zeros.T, self.bits)))
        return {
            f"{module}.qweight": packed[0],
            f"{module}.qzeros": packed[1],
            f"{module}.scales": self.scales.T.clone(memory_format=torch.contiguous_format),
            f"{module}.g_idx": self.group_of.to(torch.int32),
        }


def read_codes(
    stored: Mapping[str, Tensor], module: str, bits: int, checkpoint_format: str
) -> CodeMatrix:
    """The inverse of `CodeMatrix.tensors`; trailing codes of padded words are dropped."""
    scales, groups = stored[f"{module}.scales"].T.contiguous(), stored[f"{module}.g_idx"]
    outputs, inputs = scales.shape[0], len(groups)
    codes = _fields(stored[f"{module}.qweight"].numpy().T, bits, inputs)
    zeros = _fields(stored[f"{module}.qzeros"].numpy(), bits, outputs).T.astype(np.int64)
    if checkpoint_format == V1:
        zeros = (zeros + 1) & ((1 << bits) - 1)
    return CodeMatrix(
        bits,
        torch.from_numpy(codes),
        torch.from_numpy(np.ascontiguousarray(zeros.astype(np.uint8))),
        scales.to(torch.float16),
        groups.to(torch.int64),
    )


def _words(values: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """(rows, n) fields of `bits` bits as a stream per row: int32 (rows, ceil(n * bits / 32))."""
    rows, count = values.shape
    each = np.unpackbits(values[:, :, None], axis=2, count=bits, bitorder="little")
    stream = each.reshape(rows, count * bits)
    padded = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    packed = np.packbits(padded, axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<i4")


def _fields(words: npt.NDArray[np.int32], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """The first `count` fields of every row of words: uint8 (rows, count)."""
    raw = np.ascontiguousarray(words.astype("<i4")).view(np.uint8)
    stream = np.unpackbits(raw, axis=1, count=count * bits, bitorder="little")
    each = stream.reshape(len(words), count, bits)
    return np.packbits(each, axis=2, bitorder="little")[:, :, 0]

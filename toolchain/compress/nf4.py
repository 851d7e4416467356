"""NF4: 16 quantiles of a normal distribution, one scale per block of consecutive weights.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (arXiv 2305.14314), section 3 and
appendix E; without double quantization. Stored as bitsandbytes stores it: two weights per byte, the
first in the high half, blocks over the matrix row by row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from toolchain.compress.checkpoint import Tensor

# Appendix E of the paper; entry 7 is exactly 0.
TABLE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK = 64
STATE = "quant_state.bitsandbytes__nf4"


@dataclass(frozen=True, slots=True, eq=False)
class Nf4Matrix:
    """One matrix as table entries."""

    codes: Tensor  # uint8 (n_out, n_in), 0..15
    absmax: Tensor  # float32 (ceil(n_out * n_in / block),)
    block: int

    def decode(self) -> Tensor:
        """The weights, float32 (n_out, n_in)."""
        flat = torch.tensor(TABLE)[self.codes.long()].reshape(-1)
        scales = self.absmax.repeat_interleave(self.block)[: flat.numel()]
        return (flat * scales).reshape(self.codes.shape)

    def tensors(self, module: str) -> dict[str, Tensor]:
        """The tensors of a checkpoint under the module's name."""
        flat = self.codes.reshape(-1)
        flat = torch.cat((flat, flat.new_zeros(flat.numel() % 2)))
        state = {
            "quant_type": "nf4",
            "blocksize": self.block,
            "dtype": "float16",
            "shape": list(self.codes.shape),
        }
        weight = f"{module}.weight"
        return {
            weight: ((flat[0::2] << 4) | flat[1::2]).reshape(-1, 1),
            f"{weight}.absmax": self.absmax,
            f"{weight}.quant_map": torch.tensor(TABLE),
            f"{weight}.{STATE}": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
        }


def quantize_nf4(weight: Tensor, block: int = BLOCK) -> Nf4Matrix:
    """The nearest table entry of every weight (n_out, n_in) over its block's largest."""
    flat = weight.float().cpu().reshape(-1)
    padded = torch.cat((flat, flat.new_zeros(-flat.numel() % block))).reshape(-1, block)
    absmax = padded.abs().amax(dim=1)
    scaled = padded / torch.where(absmax > 0, absmax, torch.ones_like(absmax))[:, None]
    table = torch.tensor(TABLE)
    codes = torch.bucketize(scaled, (table[:-1] + table[1:]) / 2)
    codes = codes.reshape(-1)[: flat.numel()].reshape(weight.shape)
    return Nf4Matrix(codes.to(torch.uint8), absmax, block)


def read_nf4(stored: Mapping[str, Tensor], module: str) -> Nf4Matrix:
    """The inverse of `Nf4Matrix.tensors`."""
    weight = f"{module}.weight"
    state = json.loads(bytes(stored[f"{weight}.{STATE}"].tolist()))
    packed = stored[weight].reshape(-1)
    flat = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1)
    rows, columns = state["shape"]
    codes = flat[: rows * columns].reshape(rows, columns)
    return Nf4Matrix(codes, stored[f"{weight}.absmax"], int(state["blocksize"]))

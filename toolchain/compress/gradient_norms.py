"""Root mean square gradients of the projections, kept on disk: they are as large as the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from toolchain.compress.checkpoint import Source, Tensor
from toolchain.compress.forward import gradients
from toolchain.compress.stage import Progress, ticker
from toolchain.compress.tensor_files import save_tensors
from toolchain.model.errors import CompressionError, Problem


@dataclass(frozen=True, slots=True, eq=False)
class GradientNorms:
    """One scratch file per block in `folder`; `discard` removes them."""

    folder: Path
    blocks: int

    @staticmethod
    def measure(
        source: Source, tokens: Tensor, device: str, folder: Path, progress: Progress
    ) -> GradientNorms:
        """sqrt(mean over samples of (dL/dw) ** 2) of every projection, float32.

        Raises CompressionError when the gradients of a block are all 0 or not finite.
        """
        norms = GradientNorms(folder, source.config.num_layers)
        samples = len(tokens)
        sums: dict[str, Tensor] = {}
        tick = ticker(progress, "blocks run forward and back", 2 * norms.blocks)
        found = gradients(source, tokens, device, range(norms.blocks), tick)
        for block, sample, gradient in found:
            squares = {suffix: g.pow(2) for suffix, g in gradient.items()}
            if sample:
                squares = {suffix: sums[suffix] + g for suffix, g in squares.items()}
            sums = squares
            if sample == samples - 1:
                done = {suffix: (total / samples).sqrt().cpu() for suffix, total in sums.items()}
                check_gradients(block, done)
                save_tensors(done, norms.file(block))
        return norms

    def load(self, block: int, suffix: str) -> Tensor:
        """(n_out, n_in) of one projection, on the CPU."""
        return load_file(self.file(block))[suffix]

    def file(self, block: int) -> Path:
        """Where a block lies."""
        return self.folder / f"gradients-{block}.tmp"

    def discard(self) -> None:
        """Delete the files."""
        for block in range(self.blocks):
            self.file(block).unlink(missing_ok=True)


def check_gradients(block: int, found: dict[str, Tensor]) -> None:
    """Raise CompressionError when nothing can be learned from the gradients of a block."""
    finite = all(bool(torch.isfinite(values).all()) for values in found.values())
    zero = not any(bool(values.any()) for values in found.values())
    if zero or not finite:
        what = "all 0" if zero else "NaN or infinite"
        problem = Problem(f"gradients of block {block}", what, "finite, and not all 0")
        raise CompressionError("the model has no usable gradients", [problem])

"""GPTQModel's own dequantization of a matrix of a checkpoint; needs gptqmodel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

from toolchain.model.checkpoint import FloatModel
from toolchain.model.names import hf_name_of
from toolchain.model.safetensors_file import TensorRef

DTYPES = {"I32": np.int32, "F16": np.float16}


def tensor_of(stored: TensorRef) -> torch.Tensor:
    """A part of a coded matrix as it is stored."""
    array = np.array(stored.raw()).view(DTYPES[stored.dtype]).reshape(stored.shape)
    return torch.from_numpy(array)


def dequantize_with_library(model: FloatModel, op_id: str) -> npt.NDArray[np.float16]:
    """float16 (n_out, n_in)."""
    ref = model.codes[hf_name_of(op_id)]
    rows, columns = ref.shape
    if ref.version == "awq":
        parts = (tensor_of(ref.parts[part]) for part in ("qweight", "qzeros", "scales"))
        awq: npt.NDArray[np.float16] = dequantize_gemm(*parts, ref.bits, ref.group_size).T.numpy()
        return np.ascontiguousarray(awq)
    module = TorchLinear(
        bits=ref.bits,
        group_size=ref.group_size,
        sym=True,
        desc_act=ref.order() is not None,
        in_features=columns,
        out_features=rows,
    )
    for part, stored in ref.parts.items():
        getattr(module, part).data = tensor_of(stored)
    if ref.version == "gptq":
        convert_gptq_v1_to_v2_format_module(module, ref.bits, torch.int32)
    module.post_init()
    weight: npt.NDArray[np.float16] = module.dequantize_weight().T.contiguous().numpy()
    return weight

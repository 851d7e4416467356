"""GPTQModel's own dequantization of a matrix of a checkpoint; needs gptqmodel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

from toolchain.model.checkpoint import FloatModel
from toolchain.model.names import hf_name_of

DTYPES = {"I32": np.int32, "F16": np.float16}


def dequantize_with_library(model: FloatModel, op_id: str) -> npt.NDArray[np.float16]:
    """float16 (n_out, n_in)."""
    ref = model.codes[hf_name_of(op_id)]
    rows, columns = ref.shape
    module = TorchLinear(
        bits=ref.bits,
        group_size=ref.group_size,
        sym=True,
        desc_act=ref.order() is not None,
        in_features=columns,
        out_features=rows,
    )
    for part, stored in ref.parts.items():
        array = np.array(stored.raw()).view(DTYPES[stored.dtype]).reshape(stored.shape)
        getattr(module, part).data = torch.from_numpy(array)
    if ref.version == "gptq":
        convert_gptq_v1_to_v2_format_module(module, ref.bits, torch.int32)
    module.post_init()
    weight: npt.NDArray[np.float16] = module.dequantize_weight().T.contiguous().numpy()
    return weight

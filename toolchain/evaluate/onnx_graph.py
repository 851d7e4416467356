"""A quantized `Network` as an ONNX graph: integer weights behind DequantizeLinear, float ops.

Opset 21, the first with INT4 and with scales per block. Input `tokens` int64 (batch, T), output
`logits` float32 (batch, T, vocab), T up to the context. Weights of 2 to 4 bits are stored as INT4,
wider ones as INT8; scales per row (axis 0) or per group of columns (axis 1, block_size). Everything
else is float32 and made of basic ops, so that the runtime shares no code with edgec.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolchain.evaluate.network import Adapted, Network
from toolchain.evaluate.scoring import F64
from toolchain.model.errors import ConfigError, InternalError, Problem
from toolchain.model.names import EMBED, FINAL_NORM, HEAD
from toolchain.model.quantize import QuantTensor

OPSET = 21
IR_VERSION = 10
MAX_BYTES = (1 << 31) - 1  # of a serialized protocol buffer


def build_onnx(network: Network, version: str) -> onnx.ModelProto:
    """The checked model; `version` of edgec is its producer's.

    Raises ConfigError for a model beyond 2 GiB, the limit of one ONNX file.
    """
    graph = _Graph()
    shape = network.shape
    graph.constant("cos", network.cos[:, None].astype(np.float32))
    graph.constant("sin", network.sin[:, None].astype(np.float32))
    graph.constant("eps", np.float32(network.eps))
    x = graph.op("Gather", graph.matrix(EMBED, network.matrices[EMBED]), "tokens", axis=0)
    block = _Block(graph, network)
    for layer in range(shape.layers):
        x = block.add(layer, x)
    x = graph.norm(x, FINAL_NORM, network.norms[FINAL_NORM])
    graph.linear(x, HEAD, network.matrices[HEAD], output="logits")
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"])
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["batch", "time", shape.vocab]
    )
    made = helper.make_graph(graph.nodes, "llama", [tokens], [logits], graph.initializers)
    model = helper.make_model(
        made,
        producer_name="edgec",
        producer_version=version,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    size = model.ByteSize()
    if size > MAX_BYTES:
        problem = Problem("the model", f"{size:,} bytes", f"at most {MAX_BYTES:,} in one file")
        raise ConfigError("the model is too large for an ONNX file", [problem])
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and initializers; values are named after the op that makes them, and numbered."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._stored: dict[int, str] = {}  # id of an integer array to its initializer
        self._dequantized: set[str] = set()
        self._constants: set[str] = set()

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """One node with one output; returns the output's name."""
        return self.ops(kind, inputs, [output or f"{kind}_{len(self.nodes)}"], **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object
    ) -> Sequence[str]:
        """One node; returns the outputs' names."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:  # type: ignore[type-arg]
        """An initializer; a name that exists already is the same value."""
        if name not in self._constants:
            self._constants.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector, such as a shape or axes."""
        name = "ints_" + "_".join(str(v).replace("-", "m") for v in values)
        return self.constant(name, np.array(values, np.int64))

    def matrix(self, name: str, tensor: object) -> str:
        """Dequantized (n_out, n_in), columns as stored; equal integers are stored once."""
        if not isinstance(tensor, QuantTensor):
            raise InternalError(f"{name} is not quantized")
        stored = self._stored.get(id(tensor.values))
        if stored is None:
            stored = self._stored[id(tensor.values)] = f"{name}.weight"
            self.initializers.append(_integers(stored, tensor))
        output = f"{tensor.name}.dequantized"  # a tied head is the tensor of the embedding
        if output not in self._dequantized:
            self._dequantized.add(output)
            scale, attributes = _scales(tensor)
            scales = self.constant(f"{tensor.name}.scale", scale.astype(np.float32))
            self.op("DequantizeLinear", stored, scales, output=output, **attributes)
        return output

    def linear(self, x: str, name: str, tensor: object, output: str = "") -> str:
        """x, its elements in the order of the columns, times the transposed matrix."""
        if isinstance(tensor, Adapted):
            low = self.linear(x, tensor.down.name, tensor.down)
            product = self.linear(low, tensor.up.name, tensor.up)
            return self.op("Add", self.linear(x, name, tensor.base), product, output=output)
        if isinstance(tensor, QuantTensor) and tensor.order is not None:
            x = self.op("Gather", x, self.constant(f"{name}.order", tensor.order), axis=-1)
        transposed = self.op("Transpose", self.matrix(name, tensor), perm=[1, 0])
        return self.op("MatMul", x, transposed, output=output)

    def norm(self, x: str, name: str, gamma: F64) -> str:
        """RMSNorm over the last axis."""
        square = self.op("Mul", x, x)
        mean = self.op("ReduceMean", square, self.ints(-1), keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, "eps"))
        gammas = self.constant(f"{name}.gamma", gamma.astype(np.float32))
        return self.op("Mul", self.op("Div", x, root), gammas)


class _Block:
    """Adds decoder blocks; what all blocks share (rotary rows, the mask) is made once."""

    def __init__(self, graph: _Graph, network: Network) -> None:
        self._graph = graph
        self._network = network
        time = graph.op("Shape", "tokens", start=1, end=2)
        self._cos, self._sin = (
            graph.op("Slice", table, graph.ints(0), time, graph.ints(0)) for table in ("cos", "sin")
        )
        square = graph.op("Concat", time, time, axis=0)
        hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [-np.inf])
        full = graph.op("ConstantOfShape", square, value=hidden)
        graph.constant("one", np.int64(1))
        self._mask = graph.op("Trilu", full, "one", upper=1)

    def add(self, layer: int, x: str) -> str:
        """The residual stream behind block `layer`."""
        graph, network = self._graph, self._network
        name = f"l{layer:02d}"
        if f"{name}.attn.o_proj" in network.matrices:  # else it would add 0
            normed = graph.norm(x, f"{name}.attn.norm", network.norms[f"{name}.attn.norm"])
            x = graph.op("Add", x, self._attention(f"{name}.attn", normed))
        if f"{name}.mlp.down_proj" not in network.matrices:
            return x
        normed = graph.norm(x, f"{name}.mlp.norm", network.norms[f"{name}.mlp.norm"])
        gate, up = (self._linear(f"{name}.mlp.{p}_proj", normed) for p in ("gate", "up"))
        act = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), up)
        return graph.op("Add", x, self._linear(f"{name}.mlp.down_proj", act))

    def _linear(self, name: str, x: str) -> str:
        return self._graph.linear(x, name, self._network.matrices[name])

    def _attention(self, name: str, x: str) -> str:
        graph, shape = self._graph, self._network.shape
        rep, dim = shape.heads // shape.kv_heads, shape.head_dim
        q, k, v = (self._linear(f"{name}.{p}_proj", x) for p in "qkv")
        q = self._rotate(graph.op("Reshape", q, graph.ints(0, 0, shape.heads, dim)))
        k = self._rotate(graph.op("Reshape", k, graph.ints(0, 0, shape.kv_heads, dim)))
        q = graph.op("Reshape", q, graph.ints(0, 0, shape.kv_heads, rep, dim))
        q = graph.op("Transpose", q, perm=[0, 2, 3, 1, 4])  # (B, kv, rep, T, dim)
        k = graph.op("Reshape", k, graph.ints(0, 0, shape.kv_heads, 1, dim))
        k = graph.op("Transpose", k, perm=[0, 2, 3, 4, 1])  # (B, kv, 1, dim, T)
        v = graph.op("Reshape", v, graph.ints(0, 0, shape.kv_heads, 1, dim))
        v = graph.op("Transpose", v, perm=[0, 2, 3, 1, 4])
        scale = graph.constant("score_scale", np.float32(dim**-0.5))
        scores = graph.op("Mul", graph.op("MatMul", q, k), scale)
        weights = graph.op("Softmax", graph.op("Add", scores, self._mask), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", weights, v), perm=[0, 3, 1, 2, 4])
        flat = graph.op("Reshape", mixed, graph.ints(0, 0, shape.heads * dim))
        return self._linear(f"{name}.o_proj", flat)

    def _rotate(self, x: str) -> str:
        graph, index = self._graph, len(self._graph.nodes)
        halves = [f"half{part}_{index}" for part in range(2)]
        a, b = graph.ops("Split", [x], halves, axis=-1, num_outputs=2)
        cos, sin = self._cos, self._sin
        left = graph.op("Sub", graph.op("Mul", a, cos), graph.op("Mul", b, sin))
        right = graph.op("Add", graph.op("Mul", a, sin), graph.op("Mul", b, cos))
        return graph.op("Concat", left, right, axis=-1)


def _integers(name: str, tensor: QuantTensor) -> onnx.TensorProto:
    """INT4 (two per byte, the first in the low nibble) up to 4 bits, else INT8."""
    flat = tensor.values.reshape(-1)
    if tensor.bits > 4:
        data, kind = flat.astype(np.int8).tobytes(), TensorProto.INT8
    else:
        nibbles = np.append(flat, np.zeros(flat.size % 2, np.int8)).view(np.uint8) & 15
        data, kind = (nibbles[::2] | nibbles[1::2] << 4).tobytes(), TensorProto.INT4
    return helper.make_tensor(name, kind, tensor.values.shape, data, raw=True)


def _scales(tensor: QuantTensor) -> tuple[F64, dict[str, int]]:
    """Scales and the attributes of DequantizeLinear that tell their axis."""
    if tensor.multipliers.shape[1] == 1:
        return tensor.scale * tensor.multipliers[:, 0], {"axis": 0}
    scales: F64 = tensor.scale[:, None] * tensor.multipliers
    return scales, {"axis": 1, "block_size": tensor.group_size}

"""The fast simulator: the same integers as the machine, vectorised over tokens.

Weights are unpacked once from the blobs' bytes; activations live in a dict. A test pins its
logits to those of the byte-true machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from memory_planner.plan import Plan
from sim import ops
from sim.interpreter import run_op, steps_of
from sim.ops import Ints, KVCache, Matrix
from sim.prefill import parts_of
from toolchain.model.engine_packing import EngineLayout, unpack_engine
from toolchain.model.matrix_storage import unpack_matrix
from toolchain.model.packing import WeightInts, WeightLayout
from toolchain.model.program import Kind, Op, OpKind, Program
from toolchain.model.requant_table import RequantLayout, unpack_requant_table

PREFILL_TOKENS = 64  # tokens per pass: bounds the (heads, tokens, positions) arrays
Recorder = Callable[[Op, str, Ints], None]
Constants = Mapping[str, WeightInts | npt.NDArray[np.generic]]


def read_constants(program: Program, plan: Plan, blobs: Mapping[str, bytes]) -> Constants:
    """Every weight and constant of a program, decoded from the blobs at the planned offsets."""
    constants: dict[str, WeightInts | npt.NDArray[np.generic]] = {}
    for spec in program.tensors.values():
        if spec.kind not in (Kind.WEIGHT, Kind.CONST):
            continue
        place = plan.placements[spec.name]
        start = place.offset - plan.region(place.region).blob_base
        data = memoryview(blobs[place.region])[start : start + spec.size]
        if isinstance(spec.layout, WeightLayout):
            constants[spec.name] = unpack_matrix(data, spec.layout)
        elif isinstance(spec.layout, EngineLayout):
            values = unpack_engine(data, spec.layout)
            nothing = np.zeros(spec.layout.rows, np.uint32)
            multipliers = np.ones((spec.layout.rows, spec.layout.groups), np.uint8)
            constants[spec.name] = WeightInts(values, multipliers, nothing)
        elif isinstance(spec.layout, RequantLayout):
            constants[spec.name] = unpack_requant_table(data, spec.layout)
        else:
            plain = np.frombuffer(data, np.dtype(spec.dtype.value).newbyteorder("<"))
            constants[spec.name] = plain.reshape(spec.shape)
    return _joined(program, constants)


def _joined(program: Program, constants: Constants) -> Constants:
    """Words and table of every linear on the engine as the one matrix that they are."""
    joined = dict(constants)
    for op in program.ops:
        if program.engine_layout_of(op):
            words, table = constants[op.inputs[2]], constants[op.inputs[4]]
            assert isinstance(words, WeightInts)
            assert isinstance(table, WeightInts)
            values = np.concatenate([words.values, table.values], axis=1)
            joined[op.inputs[2]] = WeightInts(values, table.multipliers, table.requant)
    return joined


class Session:
    """One sequence: weights, KV cache, position. `forward` and `prefill` append tokens."""

    def __init__(
        self, program: Program, constants: Constants, recorder: Recorder | None = None
    ) -> None:
        self.program = program
        self.position = 0
        self._parts = parts_of(program)
        self._recorder = recorder
        self._values: dict[str, Ints] = {}
        self._constants: dict[str, Ints] = {}
        self._matrices: dict[str, Matrix] = {}
        self._embedding: npt.NDArray[np.int8] = np.empty((0, 0), np.int8)
        self._load(constants)
        shape = program.shape
        rows = (shape.layers, shape.context, shape.kv_heads)
        self._cache = KVCache(
            np.zeros((*rows, shape.head_dim), np.int64),
            np.zeros(rows, np.int64),
            np.zeros((*rows, shape.head_dim), np.int64),
            np.zeros(rows, np.int64),
        )

    def _load(self, constants: Constants) -> None:
        for op in self.program.ops:
            if op.kind is OpKind.EMBED:
                embedding = constants[op.inputs[0]]
                assert isinstance(embedding, WeightInts)
                self._embedding = embedding.values
            elif op.kind is OpKind.LINEAR:
                weights = constants[op.inputs[2]]
                assert isinstance(weights, WeightInts)
                layout = self.program.engine_layout_of(op) or self.program.layout_of(op)
                self._matrices[op.id] = ops.matrix_of(weights, layout.group_size)
        for name, value in constants.items():
            if not isinstance(value, WeightInts):
                self._constants[name] = value.astype(np.int64)

    def reset(self) -> None:
        """Forget the sequence."""
        self.position = 0

    def forward(self, tokens: npt.ArrayLike) -> Ints:
        """Logits (T, vocab) of `tokens` appended at the current position.

        Raises IndexError when the KV cache has fewer free positions than tokens.
        """
        ids = self._admitted(tokens)
        parts = []
        for start in range(0, len(ids), PREFILL_TOKENS):
            self._pass(self.program.ops, ids[start : start + PREFILL_TOKENS])
            parts.append(self._values["logits"])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prefill(self, tokens: npt.ArrayLike) -> Ints:
        """Logits (vocab,) of the last of `tokens`, at least one, appended as `forward` does it.

        The head runs for that token alone. Raises IndexError as `forward`.
        """
        ids = self._admitted(tokens)
        for start in range(0, len(ids), PREFILL_TOKENS):
            self._pass(self._parts.every, ids[start : start + PREFILL_TOKENS])
        self._values = {name: value[-1:] for name, value in self._values.items()}
        for op in self._parts.behind:
            run_op(op, self.program, self, ids[-1:], self.position - 1)
        logits: Ints = self._values["logits"][0]
        return logits

    def _admitted(self, tokens: npt.ArrayLike) -> Ints:
        """The ids of `tokens`, for which the KV cache has free positions."""
        ids = np.asarray(tokens, np.int64)
        if self.position + len(ids) > self.program.shape.context:
            raise IndexError("the sequence is longer than the context of the program")
        return ids

    def _pass(self, schedule: Sequence[Op], tokens: Ints) -> None:
        for op in schedule:
            run_op(op, self.program, self, tokens, self.position)
        self.position += len(tokens)

    # Store

    def read(self, name: str) -> Ints:
        """See `Store`."""
        return self._values[name]

    def constant(self, name: str) -> Ints:
        """See `Store`."""
        return self._constants[name]

    def write(self, op: Op, name: str, value: Ints) -> None:
        """See `Store`."""
        self._values[name] = value
        if self._recorder:
            self._recorder(op, name, value)

    def clobber(self, op: Op) -> None:
        """Nothing to spoil: values do not share memory here."""

    def embedding_rows(self, op: Op, tokens: Ints) -> Ints:
        """See `Store`."""
        return self._embedding[tokens].astype(np.int64)

    def linear(self, op: Op, q: Ints, scale: Ints, scaling: int) -> Ints:
        """See `Store`."""
        rows = steps_of(self.program.arithmetic).rows
        return ops.linear(q, scale, self._matrices[op.id], scaling, rows)

    def scales_before(self, op: Op) -> tuple[Ints, Ints] | None:
        """See `Store`."""
        if self.position == 0:
            return None
        where = (op.layer, self.position - 1)
        return self._cache.k_scale[where], self._cache.v_scale[where]

    def append_rows(self, op: Op, rows: KVCache) -> None:
        """See `Store`."""
        where = slice(self.position, self.position + len(rows.k))
        self._cache.k[op.layer, where] = rows.k
        self._cache.k_scale[op.layer, where] = rows.k_scale
        self._cache.v[op.layer, where] = rows.v
        self._cache.v_scale[op.layer, where] = rows.v_scale
        if self._recorder:
            for name, value in zip(op.outputs, _fields(rows), strict=True):
                self._recorder(op, name, value)

    def cache_rows(self, op: Op, length: int) -> KVCache:
        """See `Store`."""
        return KVCache(*(field[op.layer, :length] for field in _fields(self._cache)))


def _fields(cache: KVCache) -> tuple[Ints, Ints, Ints, Ints]:
    return cache.k, cache.k_scale, cache.v, cache.v_scale

"""Program and Plan <-> plan.json: lossless except for the constants, which are in the blobs.

The order of tensors, ops, placements and regions is kept, because the schedule, the blobs and the
generated code follow it. `graph_hash` ties code and blobs together: it covers everything that is
compiled into the C and nothing that two sets of weights of one architecture could differ in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from codegen.json_text import canonical
from memory_planner.engine_plan import ChainPlan, EngineLinear, EnginePlan, JobPlan, PiecePlan
from memory_planner.plan import (
    AttentionPlan,
    LinearPlan,
    Placement,
    Plan,
    PrefillPlan,
    RegionPlan,
    Row,
    Stream,
    StreamPlan,
    Transfer,
)
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.errors import BundleError
from toolchain.model.nm_pattern import parse_pattern
from toolchain.model.packing import CORE_PACKINGS, Packing, WeightLayout
from toolchain.model.program import (
    ActMode,
    Arithmetic,
    DType,
    Kind,
    Layout,
    Op,
    OpKind,
    Program,
    ProgramShape,
    TensorSpec,
)
from toolchain.model.requant_table import RequantLayout
from toolchain.model.sparse_packing import SparseLayout

FORMAT_VERSION = 2

Json = dict[str, Any]


def program_to_json(program: Program) -> Json:
    """Everything of `program` but the constants, as plain JSON values."""
    optional: Json = {}
    if program.arithmetic is not Arithmetic.PRECISE:
        optional["arithmetic"] = program.arithmetic.value
    return {
        "shape": asdict(program.shape),
        "residual_bits": program.residual_bits,
        **optional,
        "tensors": [_tensor_to_json(tensor) for tensor in program.tensors.values()],
        "ops": [_op_to_json(op) for op in program.ops],
    }


def program_from_json(value: Json) -> Program:
    """The inverse of `program_to_json`, with no constants."""
    tensors = [_tensor_from_json(item) for item in value["tensors"]]
    return Program(
        shape=ProgramShape(**value["shape"]),
        residual_bits=value["residual_bits"],
        tensors={tensor.name: tensor for tensor in tensors},
        ops=tuple(_op_from_json(item) for item in value["ops"]),
        constants={},
        arithmetic=Arithmetic(value.get("arithmetic", Arithmetic.PRECISE)),
    )


def _tensor_to_json(tensor: TensorSpec) -> Json:
    item: Json = {
        "name": tensor.name,
        "kind": tensor.kind.value,
        "dtype": tensor.dtype.value,
        "shape": list(tensor.shape),
    }
    if tensor.layout is not None:
        item["layout"] = _layout_to_json(tensor.layout)
    return item


def _layout_to_json(layout: Layout) -> Json:
    """Of a sparse matrix also the pattern, and the dense packing that has its fields."""
    item = {**asdict(layout), "packing": layout.format.value}
    if isinstance(layout, SparseLayout):
        item |= {"fields": layout.packing.value, "pattern": str(layout.pattern)}
    return item


def _layout_from_json(item: Json) -> Layout:
    """A layout of the packing's kind; ValueError for values that it cannot have."""
    packing = Packing(item["packing"])
    members = {name: value for name, value in item.items() if name not in ("packing", "fields")}
    if packing is Packing.REQUANT_TABLE:
        return RequantLayout(**members)
    if packing is Packing.NM_SPARSE:
        pattern = parse_pattern(item["pattern"])
        if pattern is None:
            raise ValueError(f"N:M pattern {item['pattern']!r}")
        return SparseLayout(_core_packing(item["fields"]), **{**members, "pattern": pattern})
    if packing in CORE_PACKINGS:
        return WeightLayout(packing, **members)
    return EngineLayout(packing, **members)


def _core_packing(name: str) -> Packing:
    packing = Packing(name)
    if packing not in CORE_PACKINGS:
        raise ValueError(f"{name} has no fields")
    return packing


def _tensor_from_json(item: Json) -> TensorSpec:
    layout = item.get("layout")
    if layout is not None:
        layout = _layout_from_json(layout)
    return TensorSpec(
        item["name"], Kind(item["kind"]), DType(item["dtype"]), tuple(item["shape"]), layout
    )


def _op_to_json(op: Op) -> Json:
    item: Json = {
        "id": op.id,
        "role": op.role,
        "layer": op.layer,
        "kind": op.kind.value,
        "inputs": list(op.inputs),
        "outputs": list(op.outputs),
    }
    if op.mode is not None:
        item["mode"] = op.mode.value
    if op.attrs:
        item["attrs"] = dict(sorted(op.attrs.items()))
    return item


def _op_from_json(item: Json) -> Op:
    mode = item.get("mode")
    return Op(
        id=item["id"],
        role=item["role"],
        layer=item["layer"],
        kind=OpKind(item["kind"]),
        inputs=tuple(item["inputs"]),
        outputs=tuple(item["outputs"]),
        mode=None if mode is None else ActMode(mode),
        attrs=item.get("attrs", {}),
    )


def plan_to_json(plan: Plan) -> Json:
    """All of `plan` as plain JSON values; transfers are arrays in the order of their fields."""
    optional: Json = {} if plan.streams is None else {"streams": _streams_to_json(plan.streams)}
    if plan.engine:
        optional["engine"] = _engine_to_json(plan.engine)
    if plan.prefill:
        optional["prefill"] = _prefill_to_json(plan.prefill)
    return {
        "target": plan.target,
        "cores": plan.cores,
        "roles": list(plan.roles),
        "regions": [asdict(region) for region in plan.regions],
        "blob_headers": dict(plan.blob_headers),
        "placements": [asdict(placement) for placement in plan.placements.values()],
        "linears": [_linear_to_json(linear) for linear in plan.linears.values()],
        "attention": asdict(plan.attention),
        "rows": [asdict(row) for row in plan.rows],
        **optional,
    }


def plan_from_json(value: Json) -> Plan:
    """The inverse of `plan_to_json`."""
    placements = [Placement(**item) for item in value["placements"]]
    linears = [_linear_from_json(item) for item in value["linears"]]
    return Plan(
        target=value["target"],
        cores=value["cores"],
        roles=tuple(value["roles"]),
        placements={placement.name: placement for placement in placements},
        linears={linear.op: linear for linear in linears},
        attention=AttentionPlan(**value["attention"]),
        regions=tuple(RegionPlan(**item) for item in value["regions"]),
        rows=tuple(Row(**item) for item in value["rows"]),
        blob_headers=value["blob_headers"],
        streams=_streams_from_json(value["streams"]) if "streams" in value else None,
        engine=_engine_from_json(value["engine"]) if "engine" in value else None,
        prefill=_prefill_from_json(value["prefill"]) if "prefill" in value else None,
    )


def _streams_to_json(streams: StreamPlan) -> Json:
    item = asdict(streams)
    if not streams.begins:
        del item["begins"]
    return item


def _streams_from_json(item: Json) -> StreamPlan:
    streams = tuple(Stream(**stream) for stream in item["streams"])
    lists = {"cuts": tuple(item["cuts"]), "begins": tuple(item.get("begins", ()))}
    return StreamPlan(**{**item, **lists, "streams": streams})


def _prefill_to_json(prefill: PrefillPlan) -> Json:
    item = asdict(replace(prefill, chains=()))
    del item["chains"]
    chains = {"chains": [_chain_to_json(chain) for chain in prefill.chains]}
    return {**item, **(chains if prefill.chains else {})}


def _prefill_from_json(item: Json) -> PrefillPlan:
    return PrefillPlan(**{**item, "chains": tuple(map(_chain_from_json, item.get("chains", ())))})


def _engine_to_json(engine: EnginePlan) -> Json:
    return {
        "name": engine.name,
        "weight_base": engine.weight_base,
        "addresses": dict(engine.addresses),
        "chains": [_chain_to_json(chain) for chain in engine.chains],
    }


def _engine_from_json(item: Json) -> EnginePlan:
    return EnginePlan(**{**item, "chains": tuple(map(_chain_from_json, item["chains"]))})


def _chain_to_json(chain: ChainPlan) -> Json:
    """Lists instead of tuples; pieces are arrays in the order of their fields."""
    return {
        "input_buffer": chain.input_buffer,
        "group_stride": chain.group_stride,
        "accumulator_buffer": chain.accumulator_buffer,
        "linears": [
            {
                "op": linear.op,
                "weight": linear.weight,
                "table": linear.table,
                "pieces": [list(asdict(piece).values()) for piece in linear.pieces],
            }
            for linear in chain.linears
        ],
        "jobs": [{"registers": list(job.registers), "cycles": job.cycles} for job in chain.jobs],
    }


def _chain_from_json(item: Json) -> ChainPlan:
    linears = tuple(
        EngineLinear(**{**entry, "pieces": tuple(PiecePlan(*p) for p in entry["pieces"])})
        for entry in item["linears"]
    )
    jobs = tuple(JobPlan(tuple(job["registers"]), job["cycles"]) for job in item["jobs"])
    return ChainPlan(**{**item, "linears": linears, "jobs": jobs})


def _linear_to_json(linear: LinearPlan) -> Json:
    return {
        "op": linear.op,
        "weight": linear.weight,
        "records_per_tile": linear.records_per_tile,
        "tile_buffer": linear.tile_buffer,
        "slot_size": linear.slot_size,
        "slots": linear.slots,
        "transfers": [list(asdict(transfer).values()) for transfer in linear.transfers],
    }


def _linear_from_json(item: Json) -> LinearPlan:
    transfers = tuple(Transfer(*fields) for fields in item["transfers"])
    return LinearPlan(**{**item, "transfers": transfers})


def document(program: Program, plan: Plan) -> Json:
    """The value of plan.json."""
    return {
        "format": FORMAT_VERSION,
        "program": program_to_json(program),
        "plan": plan_to_json(plan),
    }


def from_document(value: Mapping[str, Any]) -> tuple[Program, Plan]:
    """Program and Plan of a plan.json; raises BundleError when it is not one of this version."""
    if value.get("format") != FORMAT_VERSION:
        raise BundleError(
            f"plan.json has format {value.get('format')!r}, this edgec reads {FORMAT_VERSION}",
            fix="compile the model again with this edgec",
        )
    try:
        return program_from_json(value["program"]), plan_from_json(value["plan"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"plan.json is not a plan: {error!r}") from error


def graph_hash(program: Program, plan: Plan) -> bytes:
    """SHA-256 (32 bytes) of the architecture and the placement, in canonical JSON.

    Left out are the constants and what only reports use: the rows of the memory report, and of a
    region its capacity, reserved bytes and peak, and of a job its modelled cycles.
    """
    placed = plan_to_json(plan)
    del placed["rows"]
    for part in ("engine", "prefill"):
        for chain in placed.get(part, {}).get("chains", ()):
            for job in chain["jobs"]:
                del job["cycles"]
    for region in placed["regions"]:
        for report in ("capacity", "reserved", "peak", "proven"):
            del region[report]
    value = {"format": FORMAT_VERSION, "program": program_to_json(program), "plan": placed}
    return hashlib.sha256(canonical(value)).digest()

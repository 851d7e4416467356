"""Shapes that fill a target well, for a model that is yet to be trained.

Dimensions follow the grain of Siracusa's engine, which takes 252 inputs at a time (28 channels of a
3x3 window): every width is a multiple of 252; narrower models have multiples of 32 or 28. Heads are
a multiple of the cores, so that none waits for another one; what they are wide together stays at or
below the width of the model. Per width and FFN width one candidate is made, with as many blocks as
fit; every candidate is planned, so what is suggested does fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from memory_planner.target import TargetSpec, align_up
from toolchain.fit.design import Design, build_program
from toolchain.fit.planning import capacity, fits, permanent_size, plan_design
from toolchain.fit.sizes import config_parameters, packed_size
from toolchain.model.config import ModelConfig, RopeConfig
from toolchain.model.program import MatrixLayout, Program

ENGINE_INPUTS, ENGINE_OUTPUTS = 252, 32
NARROW = (64, 96, 128, 160, 196, 224)
LARGEST_MULTIPLE = 8  # of 252
FFN_RATIO = (1.5, 4.5)  # FFN width over width
ASPECT = (12, 252)  # width over blocks, around SmolLM2-135M (19) and Llama-3.2-1B (128)
HEAD_DIM = 64  # at most
HEAD_STEP = 4  # elements that a core takes at once
QUERIES_PER_KV_HEAD = 4
LEAST_FILL = 0.75  # of the largest candidate
SHOWN = 10
DEFAULT_VOCAB, DEFAULT_CONTEXT = 4096, 256


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A shape that was planned and fits."""

    config: ModelConfig
    parameters: int
    packed: int  # bytes
    fill: float  # used part of the regions that may hold weights, 0 to 1
    grain: float  # part of the engine's inputs and outputs that hold weights, 0 to 1
    tokens_per_second: float
    bound_share: float  # of the tokens per second that the memories allow, 0 to 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `config` is a config.json that edgec reads."""
        return {
            "parameters": self.parameters,
            "packed": self.packed,
            "fill": self.fill,
            "grain": self.grain,
            "tokens_per_second": self.tokens_per_second,
            "bound_share": self.bound_share,
            "config": config_values(self.config),
        }


def grain_widths() -> tuple[int, ...]:
    """Widths that waste least of the engine, narrow ones first."""
    return (*NARROW, *(ENGINE_INPUTS * n for n in range(1, LARGEST_MULTIPLE + 1)))


def suggest_shapes(
    base: Design, target: TargetSpec, parameters: int | None = None
) -> list[Suggestion]:
    """The best shapes with the vocabulary, context and quantization of `base`, fastest first.

    No shape is smaller and not faster than another one. `parameters` is the most that a shape may
    have; without it the memories are the only limit.
    """
    found = []
    for config in _candidates(base.shape, target.cores):
        blocks = _most_blocks(base, config, target, parameters)
        if blocks is not None:
            found.append(_suggestion(_with(base, config, blocks), target))
    best = max((s.parameters for s in found), default=0)
    close = [s for s in found if s.parameters >= LEAST_FILL * best]
    kept = [s for s in close if not any(_beats(other, s) for other in close)]
    return sorted(kept, key=lambda s: (-s.tokens_per_second, -s.parameters))[:SHOWN]


def _beats(one: Suggestion, other: Suggestion) -> bool:
    """Nowhere worse, and better somewhere."""
    pairs = (one.parameters, one.tokens_per_second), (other.parameters, other.tokens_per_second)
    return pairs[0] != pairs[1] and all(a >= b for a, b in zip(*pairs, strict=True))


def grain_use(program: Program) -> float:
    """Weights over the engine slots that they occupy, whole tiles of inputs and outputs."""
    weights = slots = 0
    for spec in program.tensors.values():
        if isinstance(spec.layout, MatrixLayout):
            rows, columns = spec.layout.rows, spec.layout.columns
            weights += rows * columns
            slots += align_up(rows, ENGINE_OUTPUTS) * align_up(columns, ENGINE_INPUTS)
    return weights / slots


def base_config(vocab: int, context: int) -> ModelConfig:
    """A Llama of which only the vocabulary and the context matter."""
    return ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=ENGINE_OUTPUTS,
        intermediate_size=ENGINE_OUTPUTS,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=ENGINE_OUTPUTS,
        vocab_size=vocab,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        rope=RopeConfig(10000.0, "default"),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(),
    )


def config_values(config: ModelConfig) -> dict[str, Any]:
    """The shape as the values of a Hugging Face config.json."""
    return {
        "architectures": [config.architecture],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope.theta,
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _candidates(base: ModelConfig, cores: int) -> Iterator[ModelConfig]:
    """Every width with every FFN width, one block each."""
    widths = grain_widths()
    for hidden in widths:
        heads = -(-hidden // (cores * HEAD_DIM)) * cores
        head_dim = hidden // heads // HEAD_STEP * HEAD_STEP
        divisors = [n for n in range(1, heads + 1) if heads % n == 0]
        kv_heads = min(divisors, key=lambda n: (abs(n - heads / QUERIES_PER_KV_HEAD), n))
        for ffn in widths:
            if FFN_RATIO[0] <= ffn / hidden <= FFN_RATIO[1]:
                yield replace(
                    base,
                    hidden_size=hidden,
                    intermediate_size=ffn,
                    num_layers=1,
                    num_heads=heads,
                    num_kv_heads=kv_heads,
                    head_dim=head_dim,
                )


def _with(base: Design, config: ModelConfig, blocks: int) -> Design:
    what_if = replace(base.what_if, depth=0, vocab=None)
    return replace(base, config=replace(config, num_layers=blocks), what_if=what_if)


def _most_blocks(
    base: Design, config: ModelConfig, target: TargetSpec, parameters: int | None
) -> int | None:
    """The most blocks within aspect, parameters and memory; None when too few are left."""
    least = max(2, -(-config.hidden_size // ASPECT[1]))
    most = config.hidden_size // ASPECT[0]
    one, two = (permanent_size(build_program(_with(base, config, n))) for n in (1, 2))
    most = min(most, (capacity(target) - one) // (two - one) + 1)
    if parameters is not None:
        first, second = (config_parameters(replace(config, num_layers=n)) for n in (1, 2))
        most = min(most, (parameters - first) // (second - first) + 1)
    descending = range(most, least - 1, -1)
    return next((n for n in descending if fits(_with(base, config, n), target)), None)


def _suggestion(design: Design, target: TargetSpec) -> Suggestion:
    outcome = plan_design(design, target)
    regions = [outcome.plan.region(name) for name in target.placement["weights"]]
    return Suggestion(
        config=design.config,
        parameters=config_parameters(design.config),
        packed=packed_size(outcome.program),
        fill=round(sum(r.used for r in regions) / sum(r.capacity for r in regions), 3),
        grain=round(grain_use(outcome.program), 3),
        tokens_per_second=round(outcome.speed.tokens_per_second, 1),
        bound_share=round(outcome.speed.bound_cycles / outcome.speed.cycles_per_token, 3),
    )

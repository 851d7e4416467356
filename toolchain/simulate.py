"""A compiled bundle that speaks: the blobs' integers on the fast simulator, with the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen.bundle import LoadedBundle, load_bundle
from memory_planner.target import TargetSpec
from memory_planner.target_file import load_target
from sim.generate import Sampling, generate
from sim.latency import estimate
from sim.session import Session, read_constants
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.tokenizer import StreamDecoder, Tokenizer, read_tokenizer
from toolchain.options import SimulateRequest
from toolchain.provenance import TARGET


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """A loaded bundle with its tokenizer and target."""

    bundle: LoadedBundle
    tokenizer: Tokenizer
    target: TargetSpec

    @classmethod
    def load(cls, build: Path) -> Simulation:
        """Read and check a bundle; raises BundleError when it is damaged."""
        bundle = load_bundle(build)
        settings = bundle.manifest["settings"]
        tokenizer = read_tokenizer(
            bundle.tokenizer_path,
            vocab_size=settings["vocab_size"],
            bos_token_id=settings["bos_token_id"],
        )
        return cls(bundle, tokenizer, load_target(build / TARGET))

    def generate(self, request: SimulateRequest) -> Iterator[tuple[int, str]]:
        """(token, newly completed text), until a stop token, the count or the context ends."""
        prompt = self.tokenizer.encode(request.prompt)
        context = self.bundle.program.shape.context
        if not 1 <= len(prompt) <= context:
            found = f"{len(prompt)} tokens"
            raise ConfigError(
                "the prompt cannot be continued",
                [Problem("--prompt", found, f"1..{context} tokens, the context of the bundle")],
            )
        bundle = self.bundle
        constants = read_constants(bundle.program, bundle.plan, bundle.blobs)
        decoder = StreamDecoder(self.tokenizer, prompt)
        stop = bundle.manifest["settings"]["eos_token_ids"]
        tokens = generate(
            Session(bundle.program, constants),
            prompt,
            request.max_new_tokens,
            stop=stop,
            sampling=Sampling(request.temperature, request.seed),
        )
        for token in tokens:
            yield token, decoder.push(token)

    def report(self, prompt: str, text: str, tokens: list[int]) -> dict[str, Any]:
        """Text, ids and the latency estimate at the last position."""
        length = len(self.tokenizer.encode(prompt)) + len(tokens)
        position = min(length, self.bundle.program.shape.context) - 1
        latency = estimate(self.bundle.program, self.bundle.plan, self.target, position)
        return {
            "prompt": prompt,
            "text": text,
            "token_ids": tokens,
            "target": self.target.name,
            "position": position,
            "estimate": True,
            "cycles_per_token": latency.cycles_per_token,
            "tokens_per_second": round(latency.tokens_per_second, 1),
            "bound_tokens_per_second": round(latency.bound_tokens_per_second, 1),
            "by_kind": latency.cycles_by_kind(),
        }

"""A compiled bundle that speaks: the blobs' integers on the fast simulator, with the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
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
        """(token, newly completed text), until a stop token, the count or the context ends.

        The last pair may hold text that was held back as incomplete UTF-8.
        """
        if not isfinite(request.temperature):
            problem = Problem("--temperature", str(request.temperature), "a number from 0 to 100")
            raise ConfigError("some options cannot be used", [problem])
        prompt = self.tokenizer.encode(_plain_text(request.prompt))
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
        waiting: int | None = None
        for token in tokens:
            if waiting is not None:
                yield waiting, decoder.push(waiting)
            waiting = token
        if waiting is not None:
            yield waiting, decoder.push(waiting) + decoder.flush()

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


def _plain_text(prompt: str) -> str:
    """The prompt, unless the terminal handed over bytes that are no text (lone surrogates)."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        problem = Problem("--prompt", repr(prompt), "UTF-8 text")
        raise ConfigError("the prompt cannot be read", [problem]) from error
    return prompt

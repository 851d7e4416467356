"""Training of LoRA adapters with peft and transformers; see lora.py for the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from toolchain.compress.checkpoint import Source, Tensor
from toolchain.compress.masks import Mask
from toolchain.compress.packages import surroundings
from toolchain.compress.stage import RunContext
from toolchain.model.errors import CompressionError, Problem, ToolError

if TYPE_CHECKING:
    from toolchain.compress.lora import Options

Factors = tuple[Tensor, Tensor, float]  # A (r, n_in), B (n_out, r), scale
PREFIX = "base_model.model."
CLIP_NORM = 1.0
FINAL_RATE = 0.1  # of the highest


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Token windows (count, positions): some to judge by, the others in order of use."""

    heldout: Tensor
    training: Tensor


def train(
    source: Source, examples: Examples, options: Options, run: RunContext
) -> tuple[dict[str, Factors], dict[str, Any]]:
    """The best factors by weight name, and the metrics of the training.

    Raises CompressionError for a loss or gradient that is not finite, and for a model that gives no
    gradients.
    """
    with surroundings():
        model = _wrap(source, options, run.device)
        trainer = _Trainer(model, examples, options, run)
        metrics = trainer.run()
    scale = options.alpha / options.rank
    return {
        name: (trainer.best[f"{name}.A"], trainer.best[f"{name}.B"], scale)
        for name in trainer.layers
    }, metrics


def _wrap(source: Source, options: Options, device: str) -> Any:
    """The model with adapters, frozen otherwise, masks in effect."""
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - 6 to 13 s
        from transformers import AutoModelForCausalLM  # noqa: PLC0415
    except ImportError as error:
        fix = "pip install 'edgec[compress]' (peft needs optimum where gptqmodel is installed)"
        raise ToolError(f"peft or transformers cannot be imported: {error}", fix=fix) from error
    base = AutoModelForCausalLM.from_pretrained(
        source.directory,
        dtype=torch.float32 if device == "cpu" else "auto",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.to(device), config)
    for name, layer in adapted(model).items():
        if name in source.masks:
            layer.forward = masked_forward(layer, source.masks[name], device)
    return model


def adapted(model: Any) -> dict[str, Any]:
    """The layers with an adapter by weight name."""
    return {
        name.removeprefix(PREFIX) + ".weight": layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")
    }


def masked_forward(layer: Any, mask: Mask, device: str) -> Callable[[Tensor], Tensor]:
    """W0 x + s * (keep * (B A)) dropout(x): what the layer is after a merge under the mask."""
    keep = torch.from_numpy(mask.keep).to(device)

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        adapter = layer.active_adapters[0]
        update = layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight
        update = (update * layer.scaling[adapter]).masked_fill(~keep, 0)
        inputs = layer.lora_dropout[adapter](x)
        return layer.base_layer(x) + functional.linear(inputs, update.to(x.dtype))

    return forward


@dataclass(slots=True, eq=False)
class _Trainer:
    model: Any
    examples: Examples
    options: Options
    run_context: RunContext
    layers: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Train to the end or to the early stop; metrics."""
        options, batch = self.options, self.options.batch
        self.layers = adapted(self.model)
        steps = math.ceil(len(self.examples.training) / batch)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
        every = -(-steps // options.evaluations)
        history = [self.heldout_loss()]
        self.keep_best()
        waited = done = 0
        tick = self.run_context.ticker("steps", steps)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * self.rate(step, steps)
            windows = self.examples.training[step * batch : (step + 1) * batch]
            self.step(windows, step, optimizer, parameters)
            done = step + 1
            tick()
            if done % every and done != steps:
                continue
            lowest = min(history)
            history.append(self.heldout_loss())
            waited = 0 if history[-1] < lowest else waited + 1
            if waited == 0:
                self.keep_best()
            if options.patience and waited >= options.patience:
                break
        return {
            "steps": done,
            "steps_planned": steps,
            "heldout_loss": [round(loss, 6) for loss in history],
            "best_heldout_loss": round(min(history), 6),
            "trainable_parameters": sum(p.numel() for p in parameters),
        }

    def rate(self, step: int, steps: int) -> float:
        """Share of the highest learning rate."""
        warm = max(1, round(self.options.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        along = (step - warm) / max(1, steps - warm)
        return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * along)) / 2

    def step(self, windows: Tensor, step: int, optimizer: Any, parameters: list[Tensor]) -> None:
        """One update from `accumulate` passes."""
        self.model.train()
        optimizer.zero_grad(set_to_none=True)
        for part in windows.split(max(1, self.options.batch // self.options.accumulate)):
            loss = self.loss(part) * (len(part) / len(windows))
            if not bool(torch.isfinite(loss.detach())):
                raise _not_finite(f"loss at step {step + 1}", self.options)
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        if not bool(torch.isfinite(norm)):
            raise _not_finite(f"gradients at step {step + 1}", self.options)
        if step == 0 and float(norm) == 0:
            problem = Problem("gradients of the adapters", "all 0", "others")
            raise CompressionError("the model has no usable gradients", [problem])
        optimizer.step()

    def loss(self, windows: Tensor) -> Tensor:
        """Mean loss per predicted token."""
        device = self.run_context.device
        tokens = windows.to(device)
        with _autocast(self.options.precision, device):
            logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1]
        flat = logits.float().reshape(-1, logits.shape[-1])
        return functional.cross_entropy(flat, tokens[:, 1:].reshape(-1))

    def heldout_loss(self) -> float:
        """Mean loss on the held-out windows, without dropout."""
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for part in self.examples.heldout.split(max(1, self.options.batch)):
                total += float(self.loss(part)) * len(part)
        mean = total / len(self.examples.heldout)
        if not math.isfinite(mean):
            raise _not_finite("held-out loss", self.options)
        return mean

    def keep_best(self) -> None:
        """Copy the factors as they are."""
        for name, layer in self.layers.items():
            adapter = layer.active_adapters[0]
            self.best[f"{name}.A"] = layer.lora_A[adapter].weight.detach().float().cpu().clone()
            self.best[f"{name}.B"] = layer.lora_B[adapter].weight.detach().float().cpu().clone()


def _not_finite(where: str, options: Options) -> CompressionError:
    problem = Problem(where, "NaN or infinite", "a finite number")
    fix = f"lower learning_rate ({options.learning_rate:g}), or set precision = fp32"
    return CompressionError("the training diverged", [problem], fix)


def _autocast(precision: str, device: str) -> Any:
    if device == "cpu" or precision == "fp32":
        return nullcontext()
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    kinds: Mapping[str, Any] = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device, kinds[precision]) if precision in kinds else nullcontext()

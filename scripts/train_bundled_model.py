"""Train the bundled model: a 1.9 M parameter Llama on Jane Austen's six novels.

``austen_text.py`` says where the text comes from. The last chapter of every novel is held out:
neither the tokenizer nor the training sees it, and its first 12 kB go to ``heldout.txt``, which
gives the perplexity.

    pip install torch==2.13.0 tokenizers safetensors numpy
    python scripts/train_bundled_model.py austen_six_novels.txt OUT_DIR --minutes 75
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from austen_text import BOS_ID, batches, encode, sentence_starts, split_chapters, train_tokenizer
from tiny_llama import Llama, Shape, generate, save, write_configs


@dataclass(frozen=True, slots=True)
class Recipe:
    """Optimisation settings; times in minutes, batch in sequences of ``Shape.context`` tokens."""

    minutes: float
    steps: int
    save_every: float
    batch: int = 32
    peak_lr: float = 3e-3
    floor: float = 0.05
    warmup: float = 0.03
    weight_decay: float = 0.2
    dropout: float = 0.1
    seed: int = 1811


def learning_rate(progress: float, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine from ``peak_lr`` to ``floor * peak_lr``; progress in [0, 1]."""
    if progress < recipe.warmup:
        return recipe.peak_lr * (progress + 1e-3) / recipe.warmup
    phase = (progress - recipe.warmup) / (1 - recipe.warmup)
    cosine = (1 + math.cos(math.pi * phase)) / 2
    return recipe.peak_lr * (recipe.floor + (1 - recipe.floor) * cosine)


def loss_of(model: Llama, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, matrix products in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def make_optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the gains.

    Muon (Jordan et al. 2024) is scaled to AdamW's update size, so that both share one rate.
    """
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    gains = [p for _, p in named if p.ndim == 1]
    groups = [
        {"params": [model.embed_tokens.weight], "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    decay, rate = recipe.weight_decay, recipe.peak_lr
    return [
        torch.optim.Muon(matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, rate, betas=(0.9, 0.95), fused=True),
    ]


def train(
    tokenizer: Tokenizer, chapters: list[str], heldout: list[str], out: Path, recipe: Recipe
) -> Llama:
    """Return the model trained on ``chapters``; the weights so far are saved every few minutes.

    Ends when the minutes or the steps are used up; the learning rate follows the nearer end.
    """
    torch.manual_seed(recipe.seed)
    shape = Shape()
    model = Llama(shape, recipe.dropout)
    optimizers = make_optimizers(model, recipe)
    stream = encode(tokenizer, chapters)
    starts = sentence_starts(tokenizer, stream)
    data = batches(stream, starts, shape.context, recipe.batch, recipe.seed)
    start, saved, step, mean, progress = time.monotonic(), 0.0, 0, 0.0, 0.0
    while progress < 1.0:
        minutes = (time.monotonic() - start) / 60
        progress = max(minutes / recipe.minutes, step / recipe.steps)
        rate = learning_rate(min(progress, 1.0), recipe)
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        inputs, targets = (torch.from_numpy(ids) for ids in next(data))
        loss = loss_of(model, inputs, targets)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        mean += (loss.item() - mean) / min(step, 100)
        if step % 100 == 0:
            epoch = step * recipe.batch * shape.context / len(stream)
            print(f"{minutes:.1f} min, step {step}, epoch {epoch:.2f}: {mean:.4f}", flush=True)
        if minutes - saved > recipe.save_every:
            saved = minutes
            save(model, out)
            print(evaluate(model, tokenizer, heldout), flush=True)
    print(f"{step} steps of {recipe.batch * shape.context} tokens")
    return model


def evaluate(model: Llama, tokenizer: Tokenizer, chapters: list[str]) -> dict[str, float]:
    """Perplexity over consecutive windows of 256 tokens, each one after its own ``<s>``."""
    shape, was_training = model.shape, model.training
    model.eval()
    nats, tokens = 0.0, 0
    for chapter in chapters:
        ids = tokenizer.encode(chapter).ids[1:]
        for i in range(0, len(ids), shape.context):
            window = torch.tensor([BOS_ID, *ids[i : i + shape.context]])
            with torch.no_grad():
                logits = model(window[None, :-1])[0]
            nats += functional.cross_entropy(logits, window[1:], reduction="sum").item()
            tokens += len(window) - 1
    model.train(was_training)
    size = sum(len(chapter.encode()) for chapter in chapters)
    return {
        "tokens": tokens,
        "bytes": size,
        "loss": round(nats / tokens, 4),
        "ppl_token": round(math.exp(nats / tokens), 3),
        "ppl_byte": round(math.exp(nats / size), 4),
        "bits_per_byte": round(nats / size / math.log(2), 4),
    }


def main() -> None:
    """Write the whole directory, then print the held-out perplexity and two texts."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("text", type=Path, help="the six novels, one plain text file")
    parser.add_argument("out", type=Path, help="directory of the Hugging Face checkpoint")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time")
    parser.add_argument("--steps", type=int, default=20_000, help="end after this many batches")
    parser.add_argument("--save-every", type=float, default=10.0, help="minutes between saves")
    args = parser.parse_args()
    recipe = Recipe(args.minutes, args.steps, args.save_every)

    args.out.mkdir(parents=True, exist_ok=True)
    chapters, heldout = split_chapters(args.text.read_text(encoding="utf-8"))
    (args.out / "heldout.txt").write_text("\n\n".join(heldout) + "\n")
    tokenizer = train_tokenizer(chapters, Shape().vocab)
    (args.out / "tokenizer.json").write_text(tokenizer.to_str())
    write_configs(Shape(), args.out)
    model = train(tokenizer, chapters, heldout, args.out, recipe)
    save(model, args.out)
    model = model.half().float().eval()
    print(json.dumps(evaluate(model, tokenizer, heldout)))
    for temperature in (0.0, 0.8):
        text = generate(model, tokenizer, "It was a pleasant evening, and", 200, temperature)
        print(f"--- temperature {temperature}\n{text}")


if __name__ == "__main__":
    main()

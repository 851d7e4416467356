"""TriviaQA with free answers, closed and open book, and how an answer is judged.

The model continues "Question: ... Answer:" (closed) or "Context: ... Question: ... Answer:" (open,
the shortest of the question's contexts) by 1 to 50 tokens, greedily. The answer counts when, both
in lower case and without punctuation, it equals an alias, contains one, or contains at least 80 %
of the words of one. Protocol: "Optimizing small language models" (Galavotti, Bologna, 2025);
the set: Joshi et al., arXiv 1705.03551.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from toolchain.evaluate.data_files import Row
from toolchain.evaluate.scoring import CausalModel, Stopping, greedy
from toolchain.model.errors import ConfigError, Problem
from toolchain.model.tokenizer import Tokenizer

MAX_NEW_TOKENS = 50
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class TriviaResult:
    """Judged answers; `truncated` counts contexts that had to be cut."""

    correct: int
    total: int
    generated_tokens: int
    truncated: int


def normalize(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def is_correct(answer: str, aliases: Iterable[str]) -> bool:
    """Whether `answer` equals or contains an alias, or at least 80 % of an alias's words."""
    given = normalize(answer)
    words = set(given.split())
    for alias in filter(None, map(normalize, aliases)):
        wanted = alias.split()
        # In integers: a sum of floats would miss four words of five.
        if alias in given or 5 * sum(word in words for word in wanted) >= 4 * len(wanted):
            return True
    return False


def run_trivia(
    model: CausalModel,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    eos: Sequence[int],
    progress: Callable[[int], None],
) -> TriviaResult:
    """Ask every question; rows with `contexts` are asked with the shortest of them.

    Raises ConfigError when a question alone does not fit the model's context.
    """
    correct = tokens = truncated = 0
    for index, row in enumerate(rows):
        prompt, was_cut = build_prompt(tokenizer, row, model.context - MAX_NEW_TOKENS + 1)
        new = greedy(model, prompt, Stopping(MAX_NEW_TOKENS, eos, min_new_tokens=1))
        # With the prompt before it: decoding alone would drop the space of the first word.
        answer = tokenizer.decode([*prompt, *new])[len(tokenizer.decode(prompt)) :]
        correct += is_correct(answer, [*row["aliases"], str(row.get("value", ""))])
        tokens += len(new)
        truncated += was_cut
        progress(index + 1)
    return TriviaResult(correct, len(rows), tokens, truncated)


def build_prompt(tokenizer: Tokenizer, row: Row, room: int) -> tuple[list[int], bool]:
    """Token ids of the prompt, at most `room`, and whether the context had to be cut at its end."""
    question = f"Question: {row['question']} Answer:"
    contexts = row.get("contexts")
    whole = tokenizer.encode(question if not contexts else f"{_context(contexts)} {question}")
    if len(whole) <= room:
        return whole, False
    tail = tokenizer.encode_text(f" {question}" if contexts else question)
    head = tokenizer.encode(_context(contexts)) if contexts else tokenizer.encode("")
    keep = room - len(tail)
    if keep < 1 or not contexts:
        problem = Problem("question", f"{len(whole)} tokens", f"at most {room} before the answer")
        raise ConfigError("a question does not fit the context of the model", [problem])
    return [*head[:keep], *tail], True


def _context(contexts: Sequence[str]) -> str:
    return f"Context: {min(contexts, key=len)}"

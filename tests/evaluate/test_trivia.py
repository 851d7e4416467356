"""TriviaQA: what counts as correct, worked out by hand, and how prompts are built and cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.model.tiny import write_model
from toolchain.evaluate.scoring import F64, Query, Scores
from toolchain.evaluate.trivia import build_prompt, is_correct, normalize, run_trivia
from toolchain.model.errors import ConfigError
from toolchain.model.tokenizer import Tokenizer, load_tokenizer


@pytest.mark.parametrize(
    ("answer", "aliases", "expected"),
    [
        ("Sunset Boulevard", ["sunset boulevard"], True),  # equal
        (" sunset, BOULEVARD!\n", ["Sunset Boulevard"], True),  # case and punctuation
        ("It was Sunset Boulevard, of course", ["sunset boulevard"], True),  # contained
        ("sunset", ["sunset boulevard"], False),  # half the words
        ("of the rings lord the", ["the lord of the rings"], True),  # all words, another order
        ("a b c d", ["a b d c e"], True),  # 4 of 5 words
        ("a b c", ["a b d c"], False),  # 3 of 4
        ("nothing", ["", "!?"], False),  # empty aliases match nothing
        ("", ["x"], False),
        ("Paris", ["London", "paris"], True),  # any alias
    ],
)
def test_judgement(answer: str, aliases: list[str], expected: bool) -> None:
    assert is_correct(answer, aliases) is expected


def test_normal_form() -> None:
    assert normalize("  The U.S.A.,\n 'today' ") == "the usa today"


class Parrot:
    """Says a fixed text, then the end token 2 for ever."""

    computed_tokens = 0

    def __init__(self, tokenizer: Tokenizer, text: str, context: int = 200) -> None:
        self.context = context
        self.prompts: list[list[int]] = []
        self._said = [*tokenizer.encode_text(text), 2]
        self._vocab = tokenizer.vocab_size

    def next_logits(self, tokens: Sequence[int]) -> F64:
        if not self.prompts or list(tokens[: len(self.prompts[-1])]) != self.prompts[-1]:
            self.prompts.append(list(tokens))
        step = len(tokens) - len(self.prompts[-1])
        logits = np.zeros(self._vocab)
        logits[self._said[min(step, len(self._said) - 1)]] = 1.0
        return logits

    def score(self, queries: Sequence[Query]) -> list[Scores]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_model(tmp_path_factory.mktemp("model"), vocab_size=300))


def test_closed_book(tokenizer: Tokenizer) -> None:
    rows = [
        {"question": "Who?", "value": "Bob", "aliases": ["robert"]},
        {"question": "Where?", "aliases": ["rome"]},
    ]
    model = Parrot(tokenizer, " It is Bob.")
    seen: list[int] = []
    result = run_trivia(model, tokenizer, rows, [2], seen.append)
    assert (result.correct, result.total, result.truncated) == (1, 2, 0)
    assert tokenizer.decode(model.prompts[0]) == "Question: Who? Answer:"
    assert seen == [1, 2]


def test_the_first_token_is_never_the_end(tokenizer: Tokenizer) -> None:
    result = run_trivia(
        Parrot(tokenizer, ""), tokenizer, [{"question": "?", "aliases": ["x"]}], [2], lambda _: None
    )
    assert result.generated_tokens == 1  # token 0 wins while 2 is forbidden; then 2 ends the text


def test_open_book_takes_the_shortest_context(tokenizer: Tokenizer) -> None:
    row = {"question": "Q?", "contexts": ["a long one", "short", "longer"], "aliases": ["x"]}
    ids, was_cut = build_prompt(tokenizer, row, 100)
    assert tokenizer.decode(ids) == "Context: short Question: Q? Answer:"
    assert not was_cut


def test_a_long_context_loses_its_end(tokenizer: Tokenizer) -> None:
    row = {"question": "Q?", "contexts": ["abcdefgh" * 30], "aliases": ["x"]}
    ids, was_cut = build_prompt(tokenizer, row, 40)
    text = tokenizer.decode(ids)
    assert was_cut
    assert len(ids) == 40
    assert text.startswith("Context: abcdefgh")
    assert text.endswith(" Question: Q? Answer:")


def test_a_question_that_does_not_fit_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="at most 20 before the answer"):
        build_prompt(tokenizer, {"question": "word " * 40, "aliases": []}, 20)

"""tokenizer.json -> text to token ids and back, by the tokenizers library (imported on first use).

Everything below this module works on integers only. Ids are checked against the vocabulary of the
model, since a larger one would read past the embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.model.config import read_config
from toolchain.model.errors import CheckpointError, Problem
from toolchain.model.json_fields import read_json_object

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """Text to ids and back; `bos_token_id` None adds nothing of its own."""

    backend: tokenizers.Tokenizer
    vocab_size: int  # of the model
    bos_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, as tokenizer.json's post-processor completes them.

        `bos_token_id` is put in front where the post-processor adds none. Raises CheckpointError
        if an id lies outside the vocabulary.
        """
        ids = list(self.backend.encode(text).ids)
        if self.bos_token_id is not None and ids[:1] != [self.bos_token_id]:
            ids.insert(0, self.bos_token_id)
        self._check(ids)
        return ids

    @property
    def start(self) -> int | None:
        """The first id of every text that `encode` makes, if it puts one there."""
        return next(iter(self.encode("")), None)

    def _check(self, ids: Sequence[int]) -> None:
        highest = max(ids, default=0)
        if highest >= self.vocab_size:
            allowed = f"ids 0..{self.vocab_size - 1} (below vocab_size)"
            raise _broken(Path(TOKENIZER_FILE), f"token id {highest} in a text", allowed)

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text` alone, without special tokens; raises CheckpointError as `encode` does."""
        ids = list(self.backend.encode(text, add_special_tokens=False).ids)
        self._check(ids)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; incomplete UTF-8 reads as U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))


class StreamDecoder:
    """Turns tokens into text as they arrive, holding back incomplete UTF-8.

    A token's text depends on what stands before it: a leading space is dropped at the start of a
    text, byte tokens join to characters. So each step decodes an anchor, a token that stands for
    whole characters, followed by the tokens not yet printed, and cuts off the anchor's text.
    Decoding everything anew each time would be quadratic, and one bad byte token would turn
    characters that are already printed into U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        """`context` holds the tokens before the first one pushed, such as the prompt."""
        self._tokenizer = tokenizer
        self._anchor: list[int] = []  # empty only while no text stands before the pending tokens
        self._pending: list[int] = list(context)
        self.flush()

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps empty."""
        self._pending.append(token)
        text = self._pending_text()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        return self._commit(text)

    def flush(self) -> str:
        """What is still held back; incomplete UTF-8 comes out as U+FFFD."""
        return self._commit(self._pending_text())

    def _pending_text(self) -> str:
        anchor = self._tokenizer.decode(self._anchor)
        return self._tokenizer.decode([*self._anchor, *self._pending])[len(anchor) :]

    def _commit(self, text: str) -> str:
        if text:
            every_id = range(self._tokenizer.backend.get_vocab_size())
            self._anchor = (
                self._first_whole(reversed(self._pending))
                or self._anchor
                or self._first_whole(reversed(every_id))
            )
            self._pending.clear()
        return text

    def _first_whole(self, tokens: Iterable[int]) -> list[int]:
        """The first token that alone reads as whole characters, as a list; empty if none does."""
        for token in tokens:
            text = self._tokenizer.decode([token])
            if text and _REPLACEMENT not in text:
                return [token]
        return []


def load_tokenizer(model_dir: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory, checked against its config.json.

    A beginning-of-sequence token is added where transformers adds one: by the post-processor of
    tokenizer.json, or because tokenizer_config.json asks for it. Raises CheckpointError if
    tokenizer.json is missing, invalid, or has ids beyond vocab_size.
    """
    config = read_config(model_dir)
    bos = config.bos_token_id if adds_bos(model_dir / TOKENIZER_CONFIG) else None
    path = model_dir / TOKENIZER_FILE
    return read_tokenizer(path, vocab_size=config.vocab_size, bos_token_id=bos)


def adds_bos(path: Path) -> bool:
    """`add_bos_token`, whose default in transformers is true for the Llama tokenizer classes."""
    if not path.is_file():
        return False
    settings = read_json_object(path)
    is_llama = str(settings.get("tokenizer_class", "")).startswith("LlamaTokenizer")
    return settings.get("add_bos_token", is_llama) is True


def read_tokenizer(path: Path, *, vocab_size: int, bos_token_id: int | None) -> Tokenizer:
    """The tokenizer in the file `path` for a model of `vocab_size` ids (fewer may be used).

    Raises CheckpointError if the file is missing, invalid, or has ids beyond the vocabulary.
    """
    import tokenizers  # noqa: PLC0415 - 0.1 s that commands without text need not wait for

    if not path.is_file():
        raise _broken(path, "nothing", "a tokenizer.json of the tokenizers library")
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception
        found = f"an invalid file ({error})"
        raise _broken(path, found, "a tokenizer.json of the tokenizers library") from error
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= vocab_size:
        raise _broken(path, f"token id {highest}", f"ids 0..{vocab_size - 1} (below vocab_size)")
    # Either would change a prompt silently.
    backend.no_truncation()
    backend.no_padding()
    return Tokenizer(backend, vocab_size, bos_token_id)


def _broken(path: Path, found: str, allowed: str) -> CheckpointError:
    return CheckpointError("the tokenizer is broken", [Problem(str(path), found, allowed)])

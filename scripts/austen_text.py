"""Text, tokenizer and batches of the bundled model: Jane Austen's six novels.

The text is Project Gutenberg's plain text of the six novels, which are in the public domain, one
after the other in one file, as the R package ``janeaustenr`` collects them (Debian package
``r-cran-janeaustenr``).
"""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Ids = NDArray[np.int64]

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
NOVELS = (
    "emma",
    "mansfield park",
    "northanger abbey",
    "persuasion",
    "pride and prejudice",
    "sense and sensibility",
)
CHAPTER = re.compile(r"^\s*chapter\s+[\divxlc]+\.?\s*$", re.IGNORECASE)
VOLUME = re.compile(r"^\s*volume\s+[\divxlc]+\.?\s*$", re.IGNORECASE)
END = re.compile(r"\n\s*(?:the end|finis|\*vide|a note on the text)\b.*", re.IGNORECASE | re.DOTALL)
EDITORIAL = re.compile(r"^[\[(](?:at this point|end volume|end of volume)", re.IGNORECASE)
HELDOUT_CHARS = 12_000


def split_chapters(raw: str) -> tuple[list[str], list[str]]:
    """Return (training chapters, held-out chapters) as clean text, one line per paragraph.

    Held out is the last chapter of every novel, cut to ``HELDOUT_CHARS`` at a paragraph.
    """
    novels: list[list[list[str]]] = []
    for line in raw.splitlines():
        if line.strip().lower() in NOVELS:
            novels.append([])
        elif CHAPTER.match(line):
            novels[-1].append([])
        elif novels and novels[-1] and not VOLUME.match(line):
            novels[-1][-1].append(line)
    books = [[clean("\n".join(lines)) for lines in book] for book in novels]
    heldout = [book[-1] for book in books]
    cut = [text if len(text) <= HELDOUT_CHARS else text[:HELDOUT_CHARS] for text in heldout]
    heldout = [c if c == t else c[: c.rindex("\n")] for c, t in zip(cut, heldout, strict=True)]
    return [text for book in books for text in book[:-1]], heldout


def clean(text: str) -> str:
    """Join wrapped lines to paragraphs, drop emphasis and editors' marks, keep printable ASCII."""
    text = re.sub(r"[_*\u00a3]", "", END.sub("", text)).encode("ascii", "ignore").decode()
    text = re.sub(r"\b(Mr|Mrs|Dr)\b(?!\.)", r"\1.", text)
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text))
    return "\n".join(p for p in paragraphs if p and not EDITORIAL.match(p))


def train_tokenizer(chapters: list[str], vocab: int) -> Tokenizer:
    """Byte-level BPE with all 256 bytes, so every prompt can be encoded; ``<s>`` is prepended."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chapters, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, chapters: list[str]) -> Ids:
    """All chapters as one int64 stream, each one as ``<s> text </s>``."""
    parts = [[*tokenizer.encode(chapter).ids, EOS_ID] for chapter in chapters]
    return np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])


def sentence_starts(tokenizer: Tokenizer, stream: Ids) -> Ids:
    """Positions in ``stream`` that follow the end of a sentence or of a paragraph."""
    words = [tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size())]
    ends = [i for i, word in enumerate(words) if re.search(r"[.!?][\"']?$|\n$", word)]
    titles = [i for i, word in enumerate(words) if re.search(r"\b(?:Mr|Mrs|Dr)$", word)]
    is_end = np.isin(stream, ends)
    is_end[1:] &= ~np.isin(stream[:-1], titles)
    return np.flatnonzero(is_end[:-1] & ~np.isin(stream[1:], [*ends, EOS_ID])) + 1


def batches(
    stream: Ids, starts: Ids, length: int, batch: int, seed: int
) -> Iterator[tuple[Ids, Ids]]:
    """Endless (inputs, targets), int64 [batch, length]; inputs are ``<s>`` and shifted targets.

    An epoch cuts the stream every ``length`` tokens from a random offset and moves each cut to
    the next sentence start, so that rows begin as prompts do.
    """
    rng = np.random.default_rng(seed)
    starts = starts[starts < len(stream) - length]
    while True:
        cuts = np.arange(rng.integers(length), starts[-1], length)
        rows = rng.permutation(starts[np.searchsorted(starts, cuts)])
        for i in range(0, len(rows) - batch + 1, batch):
            targets = np.stack([stream[s : s + length] for s in rows[i : i + batch]])
            inputs = np.concatenate([np.full((batch, 1), BOS_ID), targets[:, :-1]], axis=1)
            yield inputs, targets

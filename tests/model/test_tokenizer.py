from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.tiny import build_tokenizer, write_model
from tests.paths import REPOSITORY, STORIES, needs_shared
from toolchain.model.errors import CheckpointError
from toolchain.model.tokenizer import StreamDecoder, Tokenizer, load_tokenizer

MIXED = "Once upon a time, é€😀 there  was\n\na 'girl'. 漢字"


def stream(tokenizer: Tokenizer, ids: list[int], context: list[int] | None = None) -> list[str]:
    decoder = StreamDecoder(tokenizer, context or [])
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return Tokenizer(build_tokenizer(300), vocab_size=300, bos_token_id=1)


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    if not STORIES.is_dir():
        pytest.skip("the data folder ../shared is not beside this checkout")
    return load_tokenizer(STORIES)


@needs_shared
def test_trained_tokenizer() -> None:
    tokenizer = load_tokenizer(STORIES)
    assert tokenizer.encode("Once upon a time") == [1, 403, 407, 261, 378]
    assert tokenizer.encode("") == [1]
    assert tokenizer.decode([1, 403, 407, 261, 378]) == "Once upon a time"


def test_post_processor_adds_bos_once(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path))
    ids = tokenizer.encode("once")
    assert ids[0] == 1
    assert 1 not in ids[1:]


@pytest.mark.parametrize(
    ("settings", "adds"),
    [
        (None, False),
        ({}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "LlamaTokenizerFast"}, True),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, False),
        ({"add_bos_token": True}, True),
    ],
)
def test_bos_without_post_processor_is_that_of_transformers(
    tmp_path: Path, settings: dict[str, object] | None, adds: bool
) -> None:
    write_model(tmp_path)
    path = tmp_path / "tokenizer.json"
    with_bos = load_tokenizer(tmp_path).encode("once")
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    config = tmp_path / "tokenizer_config.json"
    config.unlink(missing_ok=True)
    if settings is not None:
        config.write_text(json.dumps(settings))
    expected = with_bos if adds else with_bos[1:]
    assert load_tokenizer(tmp_path).encode("once") == expected
    assert load_tokenizer(tmp_path).encode("<s>once") == with_bos  # never twice


def test_an_id_that_only_the_post_processor_knows_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "tokenizer.json"
    value = json.loads(path.read_text())
    value["post_processor"]["special_tokens"]["<s>"]["ids"] = [5000]
    path.write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="token id 5000"):
        load_tokenizer(tmp_path).encode("once")


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "tokenizer.json"
    expected = load_tokenizer(tmp_path).encode("once upon")
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation": truncation}))
    assert load_tokenizer(tmp_path).encode("once upon") == expected


def test_vocabulary_larger_than_the_model(tmp_path: Path) -> None:
    write_model(tmp_path, vocab_size=50)
    build_tokenizer(51).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"token id 50, allowed ids 0\.\.49"):
        load_tokenizer(tmp_path)


def test_smaller_vocabulary_is_allowed(tmp_path: Path) -> None:
    write_model(tmp_path, vocab_size=50)
    build_tokenizer(20).save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("e") == [1, 4]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"{", b"\xff", b'{"model": {"type": "X"}}'])
def test_missing_or_invalid_file(tmp_path: Path, content: bytes | None) -> None:
    write_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_stream_holds_back_incomplete_characters(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("x€y")[1:]
    assert stream(byte_level, ids) == ["x", "", "", "€", "y", ""]


def test_stream_of_byte_fallback(byte_fallback: Tokenizer) -> None:
    ids = byte_fallback.encode(MIXED)
    pieces = stream(byte_fallback, ids)
    assert "".join(pieces) == MIXED
    assert "\ufffd" not in "".join(pieces)
    assert pieces[0] == ""  # the beginning-of-sequence token


def test_stream_keeps_the_space_after_a_prompt(byte_fallback: Tokenizer) -> None:
    prompt = byte_fallback.encode("Once upon")
    ids = byte_fallback.encode("Once upon a time")[len(prompt) :]
    assert stream(byte_fallback, ids, prompt) == [" a", " time", ""]


def test_stream_never_takes_back_text(byte_fallback: Tokenizer) -> None:
    # Decoded together the stray byte 0xFF would spoil the euro sign before it.
    euro = [3 + byte for byte in "€".encode()]
    ids = [*byte_fallback.encode("cost"), *euro, 3 + 0xFF, *byte_fallback.encode("a")[1:]]
    assert "".join(stream(byte_fallback, ids)) == "cost€\ufffd a"


def test_flush_prints_an_incomplete_end(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("€")[1:3]
    assert stream(byte_level, ids) == ["", "", "\ufffd"]


@given(st.lists(st.integers(3, 299), max_size=12), st.integers(0, 12))
def test_stream_equals_decode_byte_level(
    byte_level: Tokenizer, ids: list[int], n_prompt: int
) -> None:
    assert "".join(stream(byte_level, ids)) == byte_level.decode(ids)
    prompt, rest = ids[:n_prompt], ids[n_prompt:]
    text = byte_level.decode(prompt)
    if not text.endswith("\ufffd"):
        assert text + "".join(stream(byte_level, rest, prompt)) == byte_level.decode(ids)


@given(st.lists(st.integers(0, 511), max_size=12))
def test_stream_equals_decode_byte_fallback(byte_fallback: Tokenizer, ids: list[int]) -> None:
    text = byte_fallback.decode(ids)
    if "\ufffd" not in text:
        assert "".join(stream(byte_fallback, ids)) == text


def test_import_is_lazy() -> None:
    code = "import sys, toolchain.model.tokenizer; sys.exit('tokenizers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)

"""Renaming of external symbols."""

from __future__ import annotations

import pytest

from codegen.prefix import apply_prefix, check_prefix
from toolchain.model.errors import ConfigError


def test_words_that_begin_with_the_name_are_renamed_and_no_others() -> None:
    text = '#include "edgec_blob.h"\nedgec_x my_edgec_x EDGEC_Y XEDGEC_Y edgec (edgec_z)'
    expected = '#include "ab_blob.h"\nab_x my_edgec_x AB_Y XEDGEC_Y edgec (ab_z)'
    assert apply_prefix(text, "ab") == expected


@pytest.mark.parametrize("prefix", ["ab", "edgec", "much_longer"])
def test_continued_lines_stay_aligned(prefix: str) -> None:
    text = (
        "edgec_status edgec_call(int a,\n"
        "                        edgec_type b,\n"
        "                        f(edgec_c,\n"
        "                          d));\n"
        "    unrelated(a,\n"
        "              b);\n"
    )
    lines = apply_prefix(text, prefix).splitlines()
    outer = lines[0].index("(") + 1
    assert [len(line) - len(line.lstrip()) for line in lines[1:3]] == [outer, outer]
    assert len(lines[3]) - len(lines[3].lstrip()) == lines[2].index("(") + 1
    assert lines[4:] == text.splitlines()[4:]


def test_parentheses_in_comments_move_nothing() -> None:
    text = "/* edgec_a (\n              kept */\nx = 1; /* edgec_( */\n      y;\n"
    assert apply_prefix(text, "long_name") == text.replace("edgec_", "long_name_")


@pytest.mark.parametrize("prefix", ["a", "model", "tiny_2", "x" * 32])
def test_good_prefixes(prefix: str) -> None:
    check_prefix(prefix)


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "A", "2a", "_a", "a_", "a-b", "a.b", "../a", "x" * 33, "ä", "a\n"),
        *("string", "stdio", "pthread", "int", "main", "static", "class", "co_await", "typeof"),
        *("x", "r", "w", "f", "atomic", "pthread_attr", "sig"),  # X_OK, atomic_init, SIG_BLOCK
    ],
)
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--prefix"):
        check_prefix(prefix)

"""The prefix of a model's external symbols.

Runtime sources and templates spell every external name `edgec_...` or `EDGEC_...`; a bundle gets
them with the model's prefix, in names and contents, so that two models link together.
"""

from __future__ import annotations

import re

from toolchain.model.errors import ConfigError, Problem

MAX_PREFIX = 32
# Headers of the C library and of POSIX that a bundle's own <prefix>.h would hide.
_SYSTEM_HEADERS = frozenset(
    (
        *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits"),
        *("locale", "math", "setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool"),
        *("stddef", "stdint", "stdio", "stdlib", "stdnoreturn", "string", "tgmath", "threads"),
        *("time", "uchar", "wchar", "wctype", "alloca", "features", "malloc", "pthread", "sched"),
        *("strings", "unistd"),
    )
)
# With these a name of a bundle is one of the C library's or of POSIX, like X_OK or atomic_init.
_SYSTEM_NAMES = frozenset(
    (
        *("at_quick", "atomic", "close", "copy_file", "cpu", "f", "fd", "fp", "getopt", "l", "on"),
        *("quick", "r", "seek", "si", "sig", "trap", "w", "x"),
    )
)
# Words of C23 and of C++23 (whose programs may include the header), and main.
_RESERVED = frozenset(
    (
        *("main", "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool"),
        *("break", "case", "catch", "char", "char16_t", "char32_t", "char8_t", "class", "co_await"),
        *("co_return", "co_yield", "compl", "concept", "const", "const_cast", "consteval"),
        *("constexpr", "constinit", "continue", "decltype", "default", "delete", "do", "double"),
        *("dynamic_cast", "else", "enum", "explicit", "export", "extern", "false", "float", "for"),
        *("friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new"),
        *("noexcept", "not", "not_eq", "nullptr", "operator", "or", "or_eq", "private"),
        *("protected", "public", "register", "reinterpret_cast", "requires", "restrict", "return"),
        *("short", "signed", "sizeof", "static", "static_assert", "static_cast", "struct"),
        *("switch", "template", "this", "thread_local", "throw", "true", "try", "typedef"),
        *("typeid", "typename", "typeof", "typeof_unqual", "union", "unsigned", "using"),
        *("virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq"),
    )
)


def check_prefix(prefix: str) -> None:
    """Raise ConfigError unless `prefix` can begin C identifiers and name a header of its own."""
    allowed = (
        f"a lower-case C identifier of at most {MAX_PREFIX} characters, "
        "no keyword, no system header, no beginning of names of the C library"
    )
    if (
        re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]|[a-z]", prefix) is None
        or len(prefix) > MAX_PREFIX
        or prefix in _SYSTEM_HEADERS | _SYSTEM_NAMES | _RESERVED
        or prefix.startswith("pthread_")
    ):
        raise ConfigError(
            "the prefix of the generated symbols cannot be used",
            [Problem("--prefix", repr(prefix), allowed)],
        )


def apply_prefix(text: str, prefix: str) -> str:
    """`text` with every word that begins with edgec_ or EDGEC_ under `prefix`.

    Lines that continue an open parenthesis keep their alignment with it.
    """
    longer = len(prefix) - len("edgec")
    lines = []
    open_columns: list[tuple[int, int]] = []  # of unclosed parentheses: before, after
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        moved = 0
        if open_columns and indent == open_columns[-1][0] + 1:
            moved = open_columns[-1][1] - open_columns[-1][0]
        starts = [match.start() for match in _NAME.finditer(line)]
        _track_parentheses(line, moved, [start + 1 for start in starts], longer, open_columns)
        renamed = _NAME.sub(lambda m: _spelled(m.group(), prefix), line)
        lines.append(" " * moved + renamed if moved >= 0 else renamed[-moved:])
    return "\n".join(lines)


_NAME = re.compile(r"(?<![A-Za-z0-9_])(?:edgec|EDGEC)(?=_)")


def _spelled(name: str, prefix: str) -> str:
    return prefix if name.islower() else prefix.upper()


def _track_parentheses(
    line: str, moved: int, names: list[int], longer: int, open_columns: list[tuple[int, int]]
) -> None:
    """Note the columns of the parentheses that `line` leaves open, before and after renaming."""
    if line.lstrip().startswith(("*", "/*", "#")):
        return
    code = line.split("/*", maxsplit=1)[0]
    for column, character in enumerate(code):
        if character == "(":
            shift = moved + longer * sum(name <= column for name in names)
            open_columns.append((column, column + shift))
        elif character == ")" and open_columns:
            open_columns.pop()
    if code.rstrip().endswith((";", "{", "}")):
        open_columns.clear()

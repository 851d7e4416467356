"""The hand-written C of templates/runtime: which files a model needs, under its own prefix.

Sources, and the templates as well, spell every external name `edgec_...` or `EDGEC_...`; a bundle
gets them with the model's prefix, in names and contents, so that two models link together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable

from toolchain.model.errors import ConfigError, Problem

PORTS = ("host", "rv32")
MAX_PREFIX = 32
# Headers of the C library and of POSIX that a bundle's own <prefix>.h would hide.
_SYSTEM_HEADERS = frozenset(
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign"
    " stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time"
    " uchar wchar wctype pthread unistd sched features sys bits".split()
)


def check_prefix(prefix: str) -> None:
    """Raise ConfigError unless `prefix` can begin C identifiers and name a header of its own."""
    allowed = f"a lower-case C identifier of at most {MAX_PREFIX} characters, no system header"
    if (
        re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]|[a-z]", prefix) is None
        or len(prefix) > MAX_PREFIX
        or prefix in _SYSTEM_HEADERS
    ):
        raise ConfigError(
            "the prefix of the generated symbols cannot be used",
            [Problem("--prefix", repr(prefix), allowed)],
        )


def apply_prefix(text: str, prefix: str) -> str:
    """`text` with every word that begins with edgec_ or EDGEC_ under `prefix`."""
    renamed = re.sub(r"(?<![A-Za-z0-9_])edgec_", f"{prefix}_", text)
    return re.sub(r"(?<![A-Za-z0-9_])EDGEC_", f"{prefix.upper()}_", renamed)


def runtime_files(generated: Iterable[str]) -> dict[str, str]:
    """Bundle path -> text of headers, ports, and the kernels that `generated` C texts call.

    Texts still have the edgec_ prefix. A source belongs to the bundle when a text in it names the
    function that the source is called after, or includes it.
    """
    root = resources.files("templates") / "runtime"
    sources = _read_directory(root / "src")
    chosen = {name: sources[name] for name in _closure(generated, sources)}
    files = {f"runtime/src/{name}": text for name, text in chosen.items()}
    headers = _read_directory(root / "include")
    files.update({f"runtime/include/{name}": text for name, text in headers.items()})
    for port in PORTS:
        for name, text in _read_directory(root / "port" / port).items():
            files[f"runtime/port/{port}/{name}"] = text
    return dict(sorted(files.items()))


def _read_directory(directory: Traversable) -> dict[str, str]:
    items = (item for item in directory.iterdir() if item.is_file())
    return {item.name: item.read_text(encoding="utf-8") for item in items}


def _closure(texts: Iterable[str], sources: Mapping[str, str]) -> list[str]:
    chosen: set[str] = set()
    waiting = list(texts)
    while waiting:
        words = set(re.findall(r"\w+(?:\.h)?", waiting.pop()))
        for name in sources:
            wanted = name if name.endswith(".h") else name.rsplit(".", 1)[0]
            if name not in chosen and wanted in words:
                chosen.add(name)
                waiting.append(sources[name])
    return sorted(chosen)

"""The hand-written C of templates/runtime: headers, ports, and the kernels that a model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable

from toolchain.model.program import Arithmetic

PORTS = ("host", "rv32")  # of every bundle
BUILT_PORTS = ("siracusa",)  # of a chip, and built by the bundle's own Makefile
BARE_PORTS = ("rv32", "siracusa")  # without a C library: they get the sources of `bare`, too
ENGINE_KERNEL = "edgec_engine_linear_run.c"
ENGINE_PORT = "edgec_engine_port.c"  # of the ports that have a model instead of the engine
ARITHMETIC_HEADER = "edgec_arithmetic.h"
TURNED_ON = ("#define EDGEC_ARITHMETIC_FAST 0", "#define EDGEC_ARITHMETIC_FAST 1")
ENGINE_MODEL = "runtime/src/edgec_neureka_"  # what these files begin with


def runtime_files(
    generated: Iterable[str],
    chip_ports: Iterable[str] = (),
    arithmetic: Arithmetic = Arithmetic.PRECISE,
) -> dict[str, str]:
    """Bundle path -> text of headers, ports, and the kernels that `generated` C texts call.

    `chip_ports` go with the ports that every bundle has. The header of the arithmetic says which
    one it is.

    Texts still have the edgec_ prefix. A source belongs to the bundle when a text in it names the
    function that the source is called after, or includes it.
    """
    root = resources.files("templates") / "runtime"
    sources = _read_directory(root / "src")
    ports = {
        f"runtime/port/{port}/{name}": text
        for port in (*PORTS, *chip_ports)
        for name, text in _read_port(root / "port", port).items()
    }
    chosen = {name: sources[name] for name in _closure(generated, sources)}
    if ENGINE_KERNEL in chosen:
        engine = [text for path, text in ports.items() if path.endswith(ENGINE_PORT)]
        chosen |= {name: sources[name] for name in _closure(engine, sources)}
    else:
        ports = {path: text for path, text in ports.items() if not path.endswith(ENGINE_PORT)}
    files = {f"runtime/src/{name}": text for name, text in chosen.items()}
    headers = _read_directory(root / "include")
    if arithmetic is Arithmetic.FAST:
        headers[ARITHMETIC_HEADER] = headers[ARITHMETIC_HEADER].replace(*TURNED_ON)
    files.update({f"runtime/include/{name}": text for name, text in headers.items()})
    files.update(ports)
    return dict(sorted(files.items()))


def _read_port(root: Traversable, port: str) -> dict[str, str]:
    shared = _read_directory(root / "bare") if port in BARE_PORTS else {}
    return shared | _read_directory(root / port)


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

"""The kernel tests once more, with AddressSanitizer and UBSan in the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.c.data import SANITIZED
from tests.c.test_on_core import MODULES as OF_KERNELS
from tests.paths import REPOSITORY

MODULES = (*OF_KERNELS, "test_math", "test_blob_check")


def preloaded_library() -> str | None:
    """The library that must be loaded before Python, or None when gcc does not have it."""
    if shutil.which("gcc") is None or sys.platform != "linux":
        return None
    command = ["gcc", "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found if Path(found).is_absolute() else None


def test_kernels_under_sanitizers() -> None:
    library = preloaded_library()
    if library is None:
        pytest.skip("gcc with AddressSanitizer is not installed")
    environment = os.environ | {
        SANITIZED: "1",
        "CC": "gcc",
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    files = [f"tests/c/{module}.py" for module in MODULES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_sanitizers_see_what_they_should(tmp_path: Path) -> None:
    """The set-up above would be worthless if an overflow went by unnoticed."""
    library = preloaded_library()
    if library is None:
        pytest.skip("gcc with AddressSanitizer is not installed")
    source = tmp_path / "bad.c"
    source.write_text("int bad(int x);\nint bad(int x) { return x + 1; }\n")
    target = tmp_path / "bad.so"
    flags = ["-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(target)], check=True)
    code = f"import ctypes; ctypes.CDLL({str(target)!r}).bad(2147483647)"
    environment = os.environ | {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "signed integer overflow" in result.stderr

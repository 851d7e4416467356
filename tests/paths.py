"""Where tests find the repository and the optional data folder beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
STORIES = SHARED / "data" / "models" / "stories260K"

needs_shared = pytest.mark.skipif(
    not STORIES.is_dir(), reason="the data folder ../shared is not beside this checkout"
)

"""Settings of the whole suite: no network, and the same examples on every machine."""

from __future__ import annotations

import os

from hypothesis import settings

# Set before any test imports transformers or tokenizers, which read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Seeded by the test's own name; no deadline, since the first example of a C test pays for a build.
settings.register_profile("edgec", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("edgec")

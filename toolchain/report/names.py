"""What the id of an op or a tensor says: the block that it belongs to."""

from __future__ import annotations

import re


def layer_of(name: str) -> int:
    """3 of "l03.attn.q_proj"; -1 for what is outside the blocks."""
    found = re.match(r"l(\d+)\.", name)
    return int(found[1]) if found else -1

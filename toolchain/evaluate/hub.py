"""A model of the Hugging Face hub as a local directory; only where the user allows downloads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from toolchain.model.errors import EnvironmentFailureError, ToolError

# No pickled weights and no code.
PATTERNS = ("*.json", "*.safetensors", "tokenizer.model")


def snapshot(name: str) -> Path:
    """The directory of the model `name` (owner/model) in the local cache, downloaded if needed."""
    if find_spec("huggingface_hub") is None:
        raise ToolError("huggingface_hub is not installed", fix="pip install 'edgec[eval]'")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - for --allow-hub only

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except (OSError, ValueError) as error:
        text = str(error).strip().split("\n")[0]
        raise EnvironmentFailureError(f"the model {name} cannot be downloaded: {text}") from error

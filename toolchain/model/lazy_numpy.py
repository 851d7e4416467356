"""numpy, imported when it is first used.

A shape is planned without touching an array, and the import would be a sixth of the time that
`edgec fit` takes. For modules that describe layouts as well as convert arrays; all others import
numpy itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _Numpy:
        """Attributes of the module, each looked up once."""

        def __getattr__(self, name: str) -> Any:
            import numpy

            value = getattr(numpy, name)
            setattr(self, name, value)
            return value

    np = _Numpy()

"""Confidence interval of an accuracy: the Wilson score interval.

E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
American Statistical Association 22 (1927). Unlike the normal approximation it stays within 0..1 and
has a width at 0 and at n of n correct, which small samples meet often.
"""

from __future__ import annotations

import math

METHOD = "Wilson 95 %"
_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Lower and upper end of the 95 % interval of correct / total; total >= 1."""
    rate, z2 = correct / total, _Z * _Z / total
    centre = (rate + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total)) / (1 + z2)
    # Rounding must not move the ends past what 0 and n of n give exactly.
    return (0.0 if correct == 0 else centre - half, 1.0 if correct == total else centre + half)

"""What a proportion may really be; plain Python, for reports of the engine and of the screens alike."""

from __future__ import annotations

import math

Z95 = 1.959964


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, center - half), min(1.0, center + half)

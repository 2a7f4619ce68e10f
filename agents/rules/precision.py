"""How much a score on so many images says. Pure.

    accuracy of one model      half the width of Wilson's 95 % interval (Wilson 1927; Brown, Cai and DasGupta 2001)
    difference of two models   sqrt(w1² + w2²) of both (Newcombe 1998, method 10): for models that err independently

Two models that mostly err on the same images can be told apart a little better than that; nobody knows how much before
both are there.
"""

from __future__ import annotations

import math

Z = 1.959964  # 97.5 % of the normal distribution
LIKELY = 0.9  # an accuracy to say a width for
FEW = 300  # on fewer images, two models must differ by almost 5 % to be told apart


def wilson(right: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, of 1 or more."""
    share, more = right / of, Z**2 / of
    middle, half = (share + more / 2) / (1 + more), half_width(of, share)
    return max(0.0, middle - half), min(1.0, middle + half)


def half_width(images: int, accuracy: float = LIKELY) -> float:
    """Half the width of the 95 % interval of an accuracy that was measured on so many images, 1 or more."""
    spread = accuracy * (1 - accuracy) / images + Z**2 / (4 * images**2)
    return Z / (1 + Z**2 / images) * math.sqrt(spread)


def difference(images: int, accuracy: float = LIKELY) -> float:
    """By how much two models of about this accuracy must differ on so many images to be told apart."""
    return math.sqrt(2) * half_width(images, accuracy)


def sentence(images: int, unit: str = "images") -> str:
    """What a holdout of so many images, or of what else they are, is good for, in a plain sentence."""
    one, two = 100 * half_width(images), 100 * difference(images)
    return (
        f"on {images:,} {unit} an accuracy of {LIKELY:.0%} is known to ±{one:.1f} %, and two models must differ by "
        f"about {two:.1f} % to be told apart"
    )

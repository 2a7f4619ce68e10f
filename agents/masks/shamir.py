"""Secrets in shares of which a threshold is needed (Shamir 1979).

A secret is a number below 2**256; shares are points of a polynomial over the integers modulo 2**521 - 1, which is prime
and has room to spare. A share is 66 bytes, big-endian; the place of a share is its x, from 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.rules.masking import SHARE_BYTES

PRIME = 2**521 - 1
SECRET_BYTES = 32


def split(secret: bytes, places: int, threshold: int, randomness: bytes) -> list[bytes]:
    """Shares for the places 1 to `places`, any `threshold` of which give the secret back; fewer tell nothing of it.

    Args:
        secret: 32 bytes.
        randomness: 80 bytes for each coefficient but the first, of which nobody knows anything: 119 bits more than the
            modulus has, so that no number below it is likelier than another by more than 2**-119.

    Raises:
        ValueError: The threshold is not within 1..places, or a size is wrong.
    """
    if not 1 <= threshold <= places:
        raise ValueError(f"a threshold of {threshold} among {places} places")
    if len(secret) != SECRET_BYTES or len(randomness) != coefficient_bytes(threshold):
        raise ValueError(f"a secret of {len(secret)} bytes with {len(randomness)} bytes of randomness")
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(randomness[at : at + 80], "big") % PRIME for at in range(0, len(randomness), 80)]
    return [_at(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, places + 1)]


def coefficient_bytes(threshold: int) -> int:
    """How much randomness `split` takes."""
    return 80 * (threshold - 1)


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret, of as many shares as the threshold, by their places.

    Raises:
        ValueError: They are not shares of one secret, as far as can be seen.
    """
    total = 0
    for place, share in shares.items():
        value = int.from_bytes(share, "big")
        if len(share) != SHARE_BYTES or value >= PRIME or place < 1:
            raise ValueError(f"the share of place {place} is none")
        above = below = 1
        for other in shares:
            if other != place:
                above, below = above * other % PRIME, below * (other - place) % PRIME
        total = (total + value * above * pow(below, -1, PRIME)) % PRIME
    if total >= 1 << (8 * SECRET_BYTES):
        raise ValueError("the shares are not of one secret")
    return total.to_bytes(SECRET_BYTES, "big")


def _at(coefficients: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value

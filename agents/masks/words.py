"""Vectors of uint32, little-endian, added modulo 2**32 without NumPy; and vectors that a key stands for.

Python's whole numbers are the adder: every other word of a vector stands in one of two numbers, with an empty word
above it for what is carried.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

WORD = 4
_BLOCK = 1 << 18  # bytes: what is added fits into a cache; a multiple of two words
_LOW = int.from_bytes(b"\xff\xff\xff\xff\x00\x00\x00\x00" * (_BLOCK // 8), "little")
_HIGH = _LOW << 32
# A one above each word, so that none borrows from its neighbour when something is taken away.
_LENT_LOW, _LENT_HIGH = ((words << 1) & ~words for words in (_LOW, _HIGH))


class Stream:
    """The words that a key stands for: AES-256 in counter mode from zero, each key for one vector only.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        return self._encryptor.update(bytes(size))

    def number(self, size: int) -> int:
        """The same as one number."""
        return int.from_bytes(self.take(size), "little")


def masked(vector: bytes, added: Iterable[bytes], taken: Iterable[bytes]) -> bytes:
    """A vector with the vectors of some keys added, and those of others taken away.

    Args:
        vector: uint32 [n], little-endian.
        added, taken: Keys, see `Stream`.

    Raises:
        ValueError: It is no vector of words.
    """
    if len(vector) % WORD:
        raise ValueError(f"{len(vector)} bytes are no words of {WORD}")
    plus, minus = [Stream(key) for key in added], [Stream(key) for key in taken]
    found = []
    for at in range(0, len(vector), _BLOCK):
        block = vector[at : at + _BLOCK]
        total = int.from_bytes(block, "little")
        low, high = total & _LOW, total & _HIGH
        for stream in plus:
            number = stream.number(len(block))
            low, high = low + (number & _LOW), high + (number & _HIGH)
        for stream in minus:
            number = stream.number(len(block))
            low, high = low + (_LENT_LOW - (number & _LOW)), high + (_LENT_HIGH - (number & _HIGH))
        found.append(((low & _LOW) | (high & _HIGH)).to_bytes(_BLOCK, "little")[: len(block)])
    return b"".join(found)


def added(one: bytes, other: bytes) -> bytes:
    """The sum of two vectors of one length: uint32 [n], little-endian."""
    if len(one) != len(other) or len(one) % WORD:
        raise ValueError(f"vectors of {len(one)} and {len(other)} bytes have no sum")
    found = []
    for at in range(0, len(one), _BLOCK):
        first, second = (int.from_bytes(vector[at : at + _BLOCK], "little") for vector in (one, other))
        low, high = (first & _LOW) + (second & _LOW), (first & _HIGH) + (second & _HIGH)
        found.append(((low & _LOW) | (high & _HIGH)).to_bytes(_BLOCK, "little")[: min(_BLOCK, len(one) - at)])
    return b"".join(found)


def expanded(key: bytes, size: int) -> bytes:
    """So many bytes that a key of 32 bytes stands for, whose key serves for nothing else."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))

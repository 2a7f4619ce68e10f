"""Paillier's encryption (1999), under which sums can be made, by GMP: a row of our tables and no part of fedssh.

With g = n + 1, and short exponents (Damgård, Jurik and Nielsen 2010, section 4.2): the random factor r**n is a power
of one number that belongs to the key, with an exponent of half the bits. Many numbers are packed into one plaintext,
as in Bonawitz et al. 2017, section 1, they would be for any such scheme.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gmpy2

BITS = 3072  # of n: as strong as AES-128 (NIST SP 800-57, table 2)


@dataclass(frozen=True)
class Key:
    """Whoever has it can open sums, and every summand.

    Attributes:
        p, q: Primes that are 3 modulo 4.
    """

    p: Any
    q: Any

    @classmethod
    def new(cls, bits: int = BITS) -> Key:
        """A new one, of a modulus with so many bits."""
        while True:
            p, q = _prime(bits // 2), _prime(bits // 2)
            if p != q and (p * q).bit_length() == bits:
                return cls(p, q)

    @cached_property
    def n(self) -> Any:
        """The public modulus."""
        return self.p * self.q

    @cached_property
    def square(self) -> Any:
        """Modulo which it computes."""
        return self.n**2

    @cached_property
    def _base(self) -> Any:
        """What random factors are powers of: h**n, where h is minus a square."""
        some = secrets.randbelow(int(self.n) - 2) + 2
        return gmpy2.powmod(-(gmpy2.mpz(some) ** 2) % self.n, self.n, self.square)

    @cached_property
    def bytes(self) -> int:
        """Of a ciphertext."""
        return (int(self.square.bit_length()) + 7) // 8

    def encrypt(self, number: int) -> Any:
        """A number below n, encrypted."""
        factor = gmpy2.powmod(self._base, secrets.randbits(int(self.n.bit_length()) // 2), self.square)
        return (1 + number * self.n) * factor % self.square

    def encrypt_textbook(self, number: int) -> Any:
        """The same, as it was published in 1999."""
        some = gmpy2.mpz(secrets.randbelow(int(self.n) - 1) + 1)
        return (1 + number * self.n) * gmpy2.powmod(some, self.n, self.square) % self.square

    def add(self, one: Any, other: Any) -> Any:
        """The sum, encrypted."""
        return one * other % self.square

    def decrypt(self, ciphertext: Any) -> int:
        """A number below n, by both primes apart (Paillier 1999, section 7)."""
        found = []
        for prime in (self.p, self.q):
            above = gmpy2.powmod(ciphertext, prime - 1, prime**2)
            unit = (gmpy2.powmod(1 + self.n, prime - 1, prime**2) - 1) // prime
            found.append((above - 1) // prime * gmpy2.invert(unit, prime) % prime)
        at_p, at_q = found
        return int(at_p + (at_q - at_p) * gmpy2.invert(self.p, self.q) % self.q * self.p)


def _prime(bits: int) -> Any:
    while True:
        some = gmpy2.next_prime(secrets.randbits(bits) | (3 << (bits - 2)))
        if some % 4 == 3 and some.bit_length() == bits:
            return some

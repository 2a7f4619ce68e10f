"""What is said on the board when updates are summed under masks; each is canonical JSON.

advert    a site's two X25519 keys for one round, signed with its site key
shares    of a site's two secrets, sealed for each site of the roster
answer    a share of one secret of each site, of whose vector the coordinator says whether it came
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from fedssh import signature
from fedssh.errors import MaskError
from fedssh.forms import canonical
from fedssh.keys import PrivateKey, PublicKey
from fedssh.masks.shamir import SHARE_BYTES

LEAST = 3  # of two, each would know the other's summand


@dataclass(frozen=True)
class Advert:
    """A site's keys for one round.

    Attributes:
        federation: SHA-256 of its first record, in hex.
        round: From 1.
        sealing: X25519 public key that shares are sealed for, in hex.
        masking: X25519 public key that masks are agreed with, in hex.
        signed: By the site's key, armored; over all the other members.
    """

    federation: str
    round: int
    site: str
    sealing: str
    masking: str
    signed: str = ""

    def sign(self, key: PrivateKey) -> Advert:
        """The same, signed."""
        return replace(self, signed=signature.sign(self._unsigned(), key, signature.MASKS))

    def check(self, signer: PublicKey) -> None:
        """Check that a site's key has signed it.

        Raises:
            SignatureError: It has not.
        """
        signature.verify(self._unsigned(), self.signed, signature.MASKS, signer)

    def _unsigned(self) -> bytes:
        return canonical({name: value for name, value in asdict(self).items() if name != "signed"})


@dataclass(frozen=True)
class Roster:
    """Who takes part in a round, with the keys of each, in the order of their names.

    Raises:
        MaskError: They are too few, not in order, or of several rounds.
    """

    adverts: tuple[Advert, ...]

    def __post_init__(self) -> None:
        if len(self.adverts) < LEAST:
            raise MaskError(f"a roster of {len(self.adverts)} sites, it takes at least {LEAST}")
        if list(self.sites) != sorted(set(self.sites)):
            raise MaskError("the roster's sites are not in order")
        if len({(advert.federation, advert.round) for advert in self.adverts}) > 1:
            raise MaskError("the roster's keys are of several rounds")

    @classmethod
    def of(cls, adverts: Sequence[Advert]) -> Roster:
        """Of adverts in any order."""
        return cls(tuple(sorted(adverts, key=lambda advert: advert.site)))

    @property
    def sites(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(advert.site for advert in self.adverts)

    @property
    def threshold(self) -> int:
        """How many answers it takes: above two thirds, so that less than a third who lie cannot have both secrets."""
        return threshold(len(self.adverts))

    @property
    def sha256(self) -> str:
        """Of all of it, in hex."""
        return hashlib.sha256(canonical({"roster": [asdict(advert) for advert in self.adverts]})).hexdigest()

    def place(self, site: str) -> int:
        """Of a site's shares, from 1."""
        return self.sites.index(site) + 1

    def advert(self, site: str) -> Advert:
        """A site's."""
        return self.adverts[self.place(site) - 1]


def threshold(sites: int) -> int:
    """How many of so many sites must answer (Bonawitz et al. 2017, section 6.2: against a coordinator who lies)."""
    return 2 * sites // 3 + 1


@dataclass(frozen=True)
class Shares:
    """A site's shares.

    Attributes:
        roster: Its SHA-256.
        seed: SHA-256 of the seed of its own mask, in hex.
        sealed: By the name of each site of the roster, both shares of that site, sealed: in hex.
        marks: By the same names, SHA-256 of the share of the seed, and of that of the key: by these a share that
            is told later is checked, whoever tells it.
    """

    site: str
    roster: str
    seed: str
    sealed: Mapping[str, str]
    marks: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """A site's share of one secret of each site.

    Attributes:
        roster: Its SHA-256.
        arrived: Whose vectors came, by the coordinator's word.
        shares: Hex by site: of the seed of who is among these, of the key of who is not but had given shares.
    """

    site: str
    roster: str
    arrived: tuple[str, ...]
    shares: Mapping[str, str]


def mark(share: bytes) -> str:
    """By what a share is known before it is told."""
    assert len(share) == SHARE_BYTES
    return hashlib.sha256(b"fedssh mask share" + share).hexdigest()

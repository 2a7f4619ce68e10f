"""What is said on the board when updates are summed under masks (Bonawitz et al. 2017), and who is how far. Pure.

    advert      a site's two X25519 keys for one round, signed with its site key
    shares      of a site's two secrets, sealed for each site of the roster
    agreed      a site's signature on who masked with whom and whose vectors came, as the coordinator has told it
    answer      a share of one secret of each site, of whose vector the coordinator says whether it came; after enough
                sites have signed the same, for she might tell each another thing

The board is the history: each is in a record of its own, signed by the coordinator, and the same for everybody. What is
computed with the secrets is in `fedssh.masks`, which no reader of a history needs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedssh.errors import MaskError
from fedssh.forms import canonical
from fedssh.rules.typed import Typed, said

MOST = 100  # sites of a group: their shares have to fit into a record
LEAST = 3  # of two, each would know the other's summand
COUNTED = 65536  # as so many images a site counts at most, unless a policy has another `cap`
SHARE_BYTES = 66  # of one secret, see `masks.shamir`
SEALED_BYTES = 2 * SHARE_BYTES + 16  # both shares of a site, and what tells that they are whole
MAX_SIGNED = 4096  # letters of an armored signature
_HEX = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True, kw_only=True)
class Advert(Typed):
    """A site's keys for one round."""

    federation: str = said("SHA-256 of its first record, in hexadecimal.")
    round: int = said("The round that they are for, from 1.")
    site: str = said("Whose.")
    sealing: str = said("X25519 public key that shares are sealed for, in hexadecimal.")
    masking: str = said("X25519 public key that masks are agreed with, in hexadecimal.")
    signed: str = said("SSHSIG by the site's key over the canonical JSON of the others, namespace `advert@fedssh`.")

    def unsigned(self) -> bytes:
        """What is signed."""
        return canonical({name: value for name, value in self.fields().items() if name != "signed"})


@dataclass(frozen=True, kw_only=True)
class Shares(Typed):
    """A site's shares of its two secrets."""

    site: str = said("Whose.")
    roster: str = said("SHA-256 of the roster, in hexadecimal.")
    seed: str = said("SHA-256 of the seed of its own mask, in hexadecimal.")
    sealed: Mapping[str, Any] = said("By name, for each site of the roster: both shares of that site, in hexadecimal.")
    marks: Mapping[str, Any] = said(
        "By the same names: SHA-256 of the share of the seed, and of that of the key; by these a share that is told "
        "later is checked, whoever tells it."
    )


@dataclass(frozen=True, kw_only=True)
class Answer(Typed):
    """A site's share of one secret of each partner."""

    site: str = said("Who answers.")
    roster: str = said("SHA-256 of the roster, in hexadecimal.")
    arrived: tuple[str, ...] = said("Whose vectors came, by the coordinator's word.")
    shares: Mapping[str, Any] = said(
        "By name of each partner, in hexadecimal: of the seed of who arrived, of the key of who did not."
    )


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

    @functools.cached_property
    def sha256(self) -> str:
        """Of all of it, in hexadecimal."""
        return hashlib.sha256(canonical({"roster": [advert.fields() for advert in self.adverts]})).hexdigest()

    def place(self, site: str) -> int:
        """Of a site's shares, from 1."""
        return self.sites.index(site) + 1

    def advert(self, site: str) -> Advert:
        """A site's."""
        return self.adverts[self.place(site) - 1]


def threshold(sites: int) -> int:
    """How many of so many sites must answer (Bonawitz et al. 2017, section 6.2: against a coordinator who lies)."""
    return 2 * sites // 3 + 1


def mark(share: bytes) -> str:
    """By what a share is known before it is told."""
    assert len(share) == SHARE_BYTES
    return hashlib.sha256(b"fedssh mask share" + share).hexdigest()


@dataclass(frozen=True)
class Masking:
    """How far a group of sites is in an open round whose updates are summed under masks; mostly it is all of them.

    Attributes:
        roster: Who may take part, as the round opened.
        shares: What each site gave.
        partners: Who gave shares in time, in order; None before that is settled. Masks are agreed among these. Empty
            where they were too few: then the round goes on without the group.
        arrived: Of these, whose vectors came in time, in order; None before that is settled; empty as before.
        agreed: Signatures of sites that arrived, after that, on both; see `to_agree`.
        confirmed: Whose signatures were there when it was settled that they are enough, in order; None before.
        answers: Of partners, after that.
    """

    roster: Roster
    shares: Mapping[str, Shares] = field(default_factory=dict)
    partners: tuple[str, ...] | None = None
    arrived: tuple[str, ...] | None = None
    agreed: Mapping[str, str] = field(default_factory=dict)
    confirmed: tuple[str, ...] | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict)

    def signed(self, site: str, signature: str) -> Masking:
        """With a site's signature."""
        return dataclasses.replace(self, agreed={**self.agreed, site: signature})

    def given(self, shares: Shares) -> Masking:
        """With a site's shares."""
        return dataclasses.replace(self, shares={**self.shares, shares.site: shares})

    def answered(self, answer: Answer) -> Masking:
        """With a site's answer."""
        return dataclasses.replace(self, answers={**self.answers, answer.site: answer})


def to_agree(roster: Roster, partners: Sequence[str], arrived: Sequence[str]) -> bytes:
    """What a site signs before it answers (Bonawitz et al. 2017, figure 4, the consistency check)."""
    return canonical({"arrived": list(arrived), "partners": list(partners), "roster": roster.sha256})


def dealt(sites: Sequence[str], groups: int, seed: int, number: int) -> tuple[tuple[str, ...], ...]:
    """The groups of a round, as evenly as can be; fewer than agreed where they would have less than `LEAST` sites.

    The order is that of the SHA-256 of "seed/number/group/site", so each round has others, and anybody can check it.
    """
    order = sorted(sites, key=lambda site: hashlib.sha256(f"{seed}/{number}/group/{site}".encode()).digest())
    count = max(1, min(max(groups, -(-len(sites) // MOST)), len(sites) // LEAST))
    return tuple(tuple(sorted(order[place::count])) for place in range(count))


def bad_advert(advert: Advert, site: str) -> str:
    """What is wrong with the form of an advert; whether it is signed is for who has the keys. Empty when nothing is."""
    if advert.more:
        return f"its advert has the unknown member {next(iter(advert.more))!r}"
    if advert.site != site:
        return f"its advert is of {advert.site[:40]}"
    if advert.round < 1 or not _is_hex(advert.federation, 32) or len(advert.signed) > MAX_SIGNED:
        return "its advert names no round of a federation"
    if not _is_hex(advert.sealing, 32) or not _is_hex(advert.masking, 32):
        return "its keys for masks are not of 32 bytes in hexadecimal"
    return ""


def bad_shares(roster: Roster, shares: Shares, site: str) -> str:
    """What is wrong with the form of what a site gives; whether it is sealed well only who it is for can tell."""
    if shares.more:
        return f"its shares have the unknown member {next(iter(shares.more))!r}"
    if shares.site != site or site not in roster.sites or shares.roster != roster.sha256:
        return f"the shares of {shares.site[:40]} are of another roster"
    if sorted(shares.sealed) != list(roster.sites) or sorted(shares.marks) != list(roster.sites):
        return f"the shares of {site} are not for each site of the roster"
    if not _is_hex(shares.seed, 32) or not all(_is_hex(one, SEALED_BYTES) for one in shares.sealed.values()):
        return f"the shares of {site} are not of their size"
    for pair in shares.marks.values():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(_is_hex(one, 32) for one in pair):
            return f"the shares of {site} are not marked"
    return ""


def bad_answer(masking: Masking, answer: Answer, site: str) -> str:
    """What is wrong with an answer, by what was marked; empty when nothing is. Of a round that is closing."""
    partners, arrived = masking.partners or (), masking.arrived or ()
    if answer.more:
        return f"its answer has the unknown member {next(iter(answer.more))!r}"
    if answer.site != site or answer.roster != masking.roster.sha256 or answer.arrived != arrived:
        return f"the answer of {answer.site[:40]} is about others than arrived"
    if sorted(answer.shares) != list(partners):
        return f"the answer of {site} is not about each partner"
    for partner, share in answer.shares.items():
        if not _is_hex(share, SHARE_BYTES):
            return f"the answer of {site} has no share of {partner}"
        if mark(bytes.fromhex(share)) != masking.shares[partner].marks[site][partner not in arrived]:
            return f"{site} tells another share of {partner} than was marked"
    return ""


def _is_hex(text: object, size: int) -> bool:
    return isinstance(text, str) and len(text) == 2 * size and _HEX.fullmatch(text) is not None

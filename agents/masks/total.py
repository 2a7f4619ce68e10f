"""The coordinator's part in a sum under masks: what the masked vectors add up to, and nothing of any one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedssh.errors import MaskError
from fedssh.masks import shamir, words
from fedssh.masks.site import common_mask, own_mask
from fedssh.rules.masking import SHARE_BYTES, Answer, Roster, Shares, mark


@dataclass(frozen=True)
class Opened:
    """A sum.

    Attributes:
        vector: uint32 [n], little-endian: of the vectors that came, modulo 2**32.
        liars: Who answered with a share that is not the marked one; the others' were enough.
    """

    vector: bytes
    liars: tuple[str, ...]


def opened(
    roster: Roster,
    partners: Sequence[str],
    arrived: Sequence[str],
    masked: bytes,
    given: Mapping[str, Shares],
    answers: Sequence[Answer],
) -> Opened:
    """Take the masks off a sum.

    Args:
        partners: Who gave shares in time, in order.
        arrived: Of these, whose vectors are in the sum, in order.
        masked: The sum of their masked vectors: uint32 [n], little-endian.
        given: Of each partner, what it gave, by name.
        answers: At most one of a site.

    Raises:
        MaskError: Too few vectors came, or too few answers are right for one of the secrets, or a partner had given
            shares of something else; then nothing comes out.
    """
    found = masks_of(roster, partners, arrived, given, answers)
    return Opened(words.masked(masked, found.add, found.take), found.liars)


@dataclass(frozen=True)
class Masks:
    """What is on a sum, as the keys of `words.Stream`.

    Attributes:
        add, take: What has to be added to it, and taken away.
        liars: As in `Opened`.
    """

    add: tuple[bytes, ...]
    take: tuple[bytes, ...]
    liars: tuple[str, ...]


def masks_of(
    roster: Roster,
    partners: Sequence[str],
    arrived: Sequence[str],
    given: Mapping[str, Shares],
    answers: Sequence[Answer],
) -> Masks:
    """What has to be done to a sum, for who adds in another way.

    Args, Raises: As `opened`.
    """
    if len(arrived) < roster.threshold:
        raise MaskError(f"{len(arrived)} of {len(roster.sites)} vectors came, it takes {roster.threshold}")
    told = [one for one in answers if one.roster == roster.sha256 and one.arrived == tuple(arrived)]
    liars: set[str] = set()
    secrets = {site: _joined(roster, site, site not in arrived, given[site], told, liars) for site in partners}
    add, take = list[bytes](), list[bytes]()
    for site in partners:
        if site in arrived:
            if hashlib.sha256(secrets[site]).hexdigest() != given[site].seed:
                raise MaskError(f"{site} had given shares of another seed than it marked")
            take.append(own_mask(secrets[site]))
            continue
        key = X25519PrivateKey.from_private_bytes(secrets[site])
        if key.public_key().public_bytes_raw().hex() != roster.advert(site).masking:
            raise MaskError(f"{site} had given shares of another key than its own")
        for other in arrived:
            (take if other < site else add).append(common_mask(key, roster, other, partners))
    return Masks(tuple(add), tuple(take), tuple(sorted(liars)))


def _joined(roster: Roster, site: str, key: bool, shares: Shares, answers: Sequence[Answer], liars: set[str]) -> bytes:
    """A secret of a site, of shares that were marked."""
    right: dict[int, bytes] = {}
    for answer in answers:
        share = _share(answer.shares.get(site, ""))
        if share is None or mark(share) != shares.marks[answer.site][key]:
            liars.add(answer.site)
        else:
            right[roster.place(answer.site)] = share
    if len(right) < roster.threshold:
        raise MaskError(
            f"{len(right)} of {len(roster.sites)} sites have told a share of {site}, it takes {roster.threshold}",
            "nothing of the round can be opened; the next one begins anew",
        )
    try:
        return shamir.join(dict(list(right.items())[: roster.threshold]))
    except ValueError:
        raise MaskError(f"{site} had given shares of no secret") from None


def _share(text: str) -> bytes | None:
    try:
        share = bytes.fromhex(text)
    except ValueError:
        return None
    return share if len(share) == SHARE_BYTES else None

"""A site's part in a sum under masks (Bonawitz et al. 2017, figure 4), against a coordinator who may lie.

    1  advert      two keys that live for one round
    2  shares      of its two secrets, for everybody on a roster of sites that people have named to it
    3  mask        its vector, by a mask of its own and one with each partner, who takes the same away
    4  confirm     who masked and who came, signed, so that all who answer have been told the same
    5  answer      once: of who came, a share of the seed of their own mask; of who did not, one of their key

Who knows a site's seed and its key can take both masks away and see its vector. So nobody is told both: a site says
once who came, and whoever else it is asked about is refused. All that is random comes from one secret of 32 bytes:
after a crash the same is said again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedssh.errors import MaskError, SharesError, SignatureError
from fedssh.keys import PrivateKey, PublicKey
from fedssh.masks import shamir, signing, words
from fedssh.rules.masking import LEAST, SHARE_BYTES, Advert, Answer, Roster, Shares, mark, to_agree

_ONCE = bytes(12)  # each key seals one message


@dataclass(frozen=True)
class MaskedRound:
    """How far a site is in a round. Whoever holds one writes it down before he says what came with it.

    Attributes:
        federation: SHA-256 of its first record, in hex.
        round: From 1.
        site: Its own name.
        secret: 32 bytes, from which all that is random is made.
        roster: That it agreed to, and to no other.
        partners: Whose shares the coordinator has, so with whom the masks are agreed.
        vector: SHA-256 of what was masked, in hex: under the same masks another one would give both away.
        arrived: Who came, as it was said; this site says nothing else any more.
    """

    federation: str
    round: int
    site: str
    secret: bytes
    roster: Roster | None = None
    partners: tuple[str, ...] | None = None
    vector: str | None = None
    arrived: tuple[str, ...] | None = None

    @classmethod
    def begin(cls, federation: str, round: int, site: str) -> MaskedRound:
        """A new one, with a new secret."""
        return cls(federation, round, site, os.urandom(32))

    # 1

    def advert(self, key: PrivateKey) -> Advert:
        """Its keys for this round, signed with the site's key."""
        return signing.sign(self.unsigned(), key)

    def unsigned(self) -> Advert:
        """The same before it is signed."""
        sealing, masking = map(_public, self._own())
        return Advert(
            federation=self.federation, round=self.round, site=self.site, sealing=sealing, masking=masking, signed=""
        )  # fmt: skip

    # 2

    def agree(self, roster: Roster, pinned: Mapping[str, PublicKey]) -> MaskedRound:
        """Agree to a roster, once.

        Args:
            pinned: The keys of other sites, as people have given them, by name.

        Raises:
            MaskError: It is not this round's; has a site that is not pinned, or whose key another one signed; lacks
                this site, or has other keys of it; or this site agreed to another one.
        """
        if self.roster is not None and self.roster != roster:
            raise MaskError(
                f"two rosters of round {self.round} came: {self.roster.sha256[:16]}…, {roster.sha256[:16]}…"
            )
        first = roster.adverts[0]
        if (first.federation, first.round) != (self.federation, self.round):
            raise MaskError(f"the roster is of round {first.round}, this is round {self.round}")
        if self.site not in roster.sites:
            raise MaskError(f"the roster of round {self.round} lacks this site, {self.site}")
        for advert in roster.adverts:
            if advert.site == self.site:
                if (advert.sealing, advert.masking) != tuple(map(_public, self._own())):
                    raise MaskError(f"the roster has other keys of this site, {self.site}, than it gave")
                continue
            if advert.site not in pinned:
                raise MaskError(
                    f"the roster of round {self.round} has {advert.site}, who is no peer of this site",
                    "if people there have given you the key: bob peers add " + advert.site + " KEY.pub",
                )
            try:
                signing.check(advert, pinned[advert.site])
            except SignatureError:
                raise MaskError(f"the key that is pinned of {advert.site} has not signed its keys") from None
            _exchanged(self._key("sealing"), advert.sealing, advert.site)
            _exchanged(self._key("masking"), advert.masking, advert.site)
        return dataclasses.replace(self, roster=roster)

    def shares(self) -> Shares:
        """Of both secrets, sealed for each site of the roster that this one agreed to, itself among them."""
        roster = self._agreed()
        count, least = len(roster.sites), roster.threshold
        size = shamir.coefficient_bytes(least)
        seeds = shamir.split(self._seed(), count, least, self._made("seed shares", size))
        keys = shamir.split(self._made("masking", 32), count, least, self._made("key shares", size))
        sealed, marks = {}, {}
        for site, seed, key in zip(roster.sites, seeds, keys, strict=True):
            sealed[site] = self._seal(self.site, site).encrypt(_ONCE, seed + key, self._bound(self.site, site)).hex()
            marks[site] = [mark(seed), mark(key)]
        digest = hashlib.sha256(self._seed()).hexdigest()
        return Shares(site=self.site, roster=roster.sha256, seed=digest, sealed=sealed, marks=marks)

    # 3

    def mask(self, vector: bytes, partners: Sequence[str]) -> tuple[MaskedRound, bytes]:
        """Its vector under its masks.

        Args:
            vector: uint32 [n], little-endian.
            partners: Of the roster, whose shares the coordinator has.

        Raises:
            MaskError: They are too few, without this site, not of the roster, or others than before; or the vector is.
        """
        roster, chosen = self._agreed(), tuple(partners)
        self._check_some(chosen, roster.sites, "partners")
        if self.site not in chosen:
            raise MaskError(f"this site, {self.site}, is not among the partners of round {self.round}")
        if self.partners not in (None, chosen):
            raise MaskError(f"other partners of round {self.round} came than before")
        digest = hashlib.sha256(vector).hexdigest()
        if self.vector not in (None, digest):
            raise MaskError(f"another vector is masked in round {self.round} already")
        if self.arrived is not None:
            raise MaskError(f"round {self.round} is closing: this vector comes too late")
        add, take = [own_mask(self._seed())], list[bytes]()
        for site in chosen:
            if site != self.site:
                common = common_mask(self._key("masking"), roster, site, chosen)
                (add if self.site < site else take).append(common)
        return dataclasses.replace(self, partners=chosen, vector=digest), words.masked(vector, add, take)

    # 4

    def confirm(self, arrived: Sequence[str], key: PrivateKey) -> tuple[MaskedRound, str]:
        """Its signature on who masked and who came, as it was told; it agrees to nothing else any more.

        Raises:
            MaskError: It has not masked, is not among who came, or these are too few, no partners, or others than
                before.
        """
        roster, came = self._agreed(), tuple(arrived)
        if self.partners is None or self.vector is None or self.site not in came:
            raise MaskError(f"this site has no vector in the sum of round {self.round}, and cannot say whose are")
        self._check_some(came, self.partners, "arrived")
        if self.arrived not in (None, came):
            raise MaskError(f"this site has signed already in round {self.round} that others came")
        signed = signing.agree(to_agree(roster, self.partners, came), key)
        return dataclasses.replace(self, arrived=came), signed

    def answer(
        self, arrived: Sequence[str], given: Mapping[str, Shares], agreed: Collection[str]
    ) -> tuple[MaskedRound, Answer]:
        """Its share of one secret of each partner.

        Args:
            arrived: Whose vectors came, by the coordinator's word.
            given: What each partner gave, by name.
            agreed: Whose signature on just these was found right, see `signing.signers`: without enough of them the
                coordinator may have told others another thing, and could have both secrets of a site from them.

        Raises:
            MaskError: They are too few, not partners, or others than this site answered about before; or what a
                partner gave is not sealed for this site, or is not what was marked.
        """
        roster, came = self._agreed(), tuple(arrived)
        if self.partners is None:  # it never masked anything, but can help
            partners = tuple(site for site in roster.sites if site in given)
            self._check_some(partners, roster.sites, "partners")
        else:
            partners = self.partners
        self._check_some(came, partners, "arrived")
        if self.arrived not in (None, came):
            raise MaskError(
                f"this site has answered already in round {self.round}, about other sites",
                "it tells one secret of each site and never both: the round gives no sum",
            )
        if (count := len(set(agreed) & set(came))) < roster.threshold:
            told = f"who came in round {self.round} as this site was told"
            raise MaskError(f"{count} sites have signed {told}, it takes {roster.threshold}")
        shares = {site: self._share(given.get(site), site, key=site not in came).hex() for site in partners}
        answered = dataclasses.replace(self, partners=partners, arrived=came)
        return answered, Answer(site=self.site, roster=roster.sha256, arrived=came, shares=shares)

    def _share(self, shares: Shares | None, site: str, *, key: bool) -> bytes:
        roster = self._agreed()
        if shares is None or shares.site != site or shares.roster != roster.sha256 or self.site not in shares.sealed:
            raise MaskError(f"there are no shares of {site} for this site in round {self.round}")
        try:
            sealed = bytes.fromhex(shares.sealed[self.site])
            both = self._seal(site, self.site).decrypt(_ONCE, sealed, self._bound(site, self.site))
        except (InvalidTag, ValueError):
            raise SharesError(f"the shares of {site} are not sealed for this site by it") from None
        share = both[SHARE_BYTES:] if key else both[:SHARE_BYTES]
        if len(both) != 2 * SHARE_BYTES or mark(share) != shares.marks[self.site][key]:
            raise SharesError(f"the shares of {site} are not those that it marked")
        return share

    def _check_some(self, some: tuple[str, ...], of: Sequence[str], what: str) -> None:
        least = self._agreed().threshold
        if list(some) != sorted(set(some)) or not set(some) <= set(of):
            raise MaskError(f"{what} of round {self.round} are not of its sites, in order and once each")
        if len(some) < max(least, LEAST):
            raise MaskError(f"{what} of round {self.round} are {len(some)} sites, of {len(of)} it takes {least}")

    def _agreed(self) -> Roster:
        if self.roster is None:
            raise MaskError(f"this site has agreed to no roster of round {self.round}")
        return self.roster

    # what is made of the secret

    def _made(self, what: str, size: int) -> bytes:
        bound = f"fedssh masks {what} {self.federation} {self.round} {self.site}".encode()
        return words.expanded(_derived(self.secret, bound), size)

    def _key(self, what: str) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self._made(what, 32))

    def _own(self) -> tuple[X25519PrivateKey, X25519PrivateKey]:
        return self._key("sealing"), self._key("masking")

    def _seed(self) -> bytes:
        return self._made("seed", 32)

    def _seal(self, giver: str, taker: str) -> ChaCha20Poly1305:
        """What the giver's shares for the taker are sealed with; this site is one of them, or both."""
        other = taker if giver == self.site else giver
        shared = _exchanged(self._key("sealing"), self._agreed().advert(other).sealing, other)
        return ChaCha20Poly1305(_derived(shared, b"fedssh masks seal " + self._bound(giver, taker)))

    def _bound(self, giver: str, taker: str) -> bytes:
        return f"{self._agreed().sha256} {giver} {taker}".encode()


def check_keys(advert: Advert) -> None:
    """Check that the keys of an advert are some: with a few numbers every exchange gives the same.

    Raises:
        MaskError: One is none.
    """
    for key in (advert.sealing, advert.masking):
        _exchanged(X25519PrivateKey.generate(), key, advert.site)


def common_mask(own: X25519PrivateKey, roster: Roster, other: str, partners: Sequence[str]) -> bytes:
    """The key of the mask of two partners, the same from both ends: who is first in order adds it, the other takes it.

    Args:
        own: The masking key of one.
        other: The name of the other one.
        partners: Of both; with any others the mask is another one.
    """
    bound = f"fedssh masks pair {roster.sha256} {','.join(partners)}".encode()
    return _derived(_exchanged(own, roster.advert(other).masking, other), bound)


def own_mask(seed: bytes) -> bytes:
    """The key of a site's own mask, which it adds."""
    return _derived(seed, b"fedssh masks own")


def _exchanged(own: X25519PrivateKey, key: str, site: str) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(key)))
    except ValueError:  # not 32 bytes, or of those few that give the same with every key
        raise MaskError(f"a key of {site} for masks is none") from None


def _public(key: X25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _derived(secret: bytes, bound: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, None, bound).derive(secret)

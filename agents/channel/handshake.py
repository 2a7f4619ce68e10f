"""How the two ends of a channel make sure of each other, and make keys that nobody between them knows.

    OFFER     the coordinator -> the site    {"challenge", "offer", "signature"}
    ANSWER    the site -> the coordinator    {"answer", "signature"}

`offer` and `answer` are texts in canonical JSON, each signed (SSHSIG, namespace channel@fedssh): the offer by the
coordinator's key, once for each turn, the answer by the site's, for each connection. Alice has no key: she writes the
answer, and her Bob signs it. He could write another one in the site's name, as he could send another model; what is
sealed for Alice's key he cannot read, and an offer with a key of his own she does not take.

    secret    X25519 of the two keys, one in the offer and one in the answer
    keys      HKDF-SHA256 of it, salt SHA-256(offer, answer), info "fedssh channel 1", 64 bytes:
              AES-256 for what the coordinator sends, AES-256 for what the site sends

The coordinator's X25519 key lives as long as her process and serves one turn. The challenge is random for each
connection and stands in the answer, so an answer serves once, and its salt gives keys that were never used.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedssh.channel import frames
from fedssh.channel.frames import ANSWER, ASIDE, HEADER_BYTES, OFFER, SITE, Header
from fedssh.channel.sealed import Channel, Wire
from fedssh.errors import BundleError, ChannelError, LedgerError, SettingsError, UnreachableError
from fedssh.forms import _SITE, canonical, matched, parse
from fedssh.keys import parse_public
from fedssh.manifest import _HEX, _TIME, now
from fedssh.rules.typed import Typed, said
from fedssh.signature import CHANNEL, verify

if TYPE_CHECKING:
    import socket

VERSION = 1
MAX_OFFER_BYTES = 24 * 1024  # as a text in a frame it may be twice as long
_INFO = b"fedssh channel 1"
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_REFUSED = "ask the coordinator's operator whether this site is still enrolled, and look into Bob's log"

Kind = TypeVar("Kind", bound=Typed)


@dataclass(frozen=True, kw_only=True)
class Offer(Typed):
    """What the coordinator offers one site for one turn; signed by her, `type` "channel-offer", `version` 1."""

    federation: str = said("The federation's name.")
    genesis: str = said("The hash of record 1.")
    release: int = said("The record of the release that the turn begins with.")
    turn: int = said("The number of the turn.")
    site: str = said("The site whose turn it is.")
    key: str = said("Her X25519 public key for this turn, 32 bytes in base64.")
    terms: Mapping[str, Any] = said("What the turn is about; none of the channel's concern.")
    created: str = said("When this was written.")


@dataclass(frozen=True, kw_only=True)
class Answer(Typed):
    """What the site answers on one connection; signed by it, `type` "channel-answer", `version` 1."""

    site: str = said("The site's name.")
    offer: str = said("SHA-256 of the offer's bytes.")
    challenge: str = said("What came with the offer on this connection: 32 random bytes, in hexadecimal.")
    key: str = said("Its X25519 public key for this connection, 32 bytes in base64.")


_FORMS = {
    "genesis": _HEX, "site": _SITE, "key": _KEY, "created": _TIME, "offer": _HEX, "challenge": _HEX,
}  # fmt: skip


@dataclass(frozen=True)
class EphemeralKey:
    """An X25519 key that is never written down.

    Attributes:
        public: Its public half, in base64.
    """

    private: X25519PrivateKey
    public: str


def new_key() -> EphemeralKey:
    """A fresh key."""
    private = X25519PrivateKey.generate()
    return EphemeralKey(private, base64.b64encode(private.public_key().public_bytes_raw()).decode())


def make_offer(
    *,
    federation: str,
    genesis: str,
    release: int,
    turn: int,
    site: str,
    key: str,
    terms: Mapping[str, Any],
    created: str | None = None,
) -> bytes:
    """The bytes of an offer, for the coordinator's key to sign (`signature.sign(offer, key, CHANNEL)`).

    Args:
        key: The public half of the judge's key for this turn.
        created: Now, unless given.
        Others: See `Offer`.

    Raises:
        ChannelError: A member is not of its form, or there is too much in `terms`.
    """
    offer = Offer(
        federation=federation, genesis=genesis, release=release, turn=turn, site=site, key=key, terms=terms,
        created=created or now(),
    )  # fmt: skip
    written = _written(offer, "channel-offer")
    read_offer(written)
    return written


def read_offer(data: bytes) -> Offer:
    """Read an offer.

    Raises:
        ChannelError: It does not have the one form it must have.
    """
    if len(data) > MAX_OFFER_BYTES:
        raise ChannelError(f"the offer has {len(data):,} bytes, expected at most {MAX_OFFER_BYTES:,}")
    return _read(Offer, data, "channel-offer", "offer")


def make_answer(offer: bytes, site: str, challenge: str, key: str) -> bytes:
    """The bytes of an answer to an offer, for the site's key to sign."""
    answer = Answer(site=site, offer=hashlib.sha256(offer).hexdigest(), challenge=challenge, key=key)
    return _written(answer, "channel-answer")


def read_answer(data: bytes, offer: bytes, challenge: str) -> Answer:
    """Read an answer, and check that it is one to this offer on this connection, by the site that it was made to.

    Raises:
        ChannelError: It is not.
    """
    answer = _read(Answer, data, "channel-answer", "answer")
    expected = {
        "site": read_offer(offer).site, "offer": hashlib.sha256(offer).hexdigest(), "challenge": challenge,
    }  # fmt: skip
    for name, value in expected.items():
        if (found := getattr(answer, name)) != value:
            raise ChannelError(f"the answer has the {name} {found}, expected {value}")
    return answer


def who(sock: socket.socket, timeout: float) -> str:
    """The judge's side, first of all: which site the door has on this connection.

    That is the door's word; that it is this site, only its answer shows, see `welcome`.

    Args:
        sock: Closed where this fails.
        timeout: In how many seconds it must be said.

    Raises:
        ChannelError: Something else is said.
        UnreachableError: Nothing is, or whoever was there went away.
    """
    wire = Wire(sock)
    try:
        _, body = _next(wire, time.monotonic() + timeout, SITE)
        return _form(_SITE, frames.read_plain(body, "site")["site"], "site")
    except BaseException:
        wire.close()
        raise


def welcome(
    sock: socket.socket, offer: bytes, signature: str, key: EphemeralKey, site_key: str, timeout: float
) -> Channel:
    """The coordinator's side: send the offer, read the answer, and have a channel to Alice of that site.

    Args:
        sock: A connection that the door made; closed where this fails.
        offer: Of `make_offer`.
        signature: Of the coordinator, over it.
        key: Whose public half stands in the offer.
        site_key: The site's public key, one OpenSSH line.
        timeout: In how many seconds the answer must be there.

    Raises:
        UntrustedError: Whoever is there is not that site, or answers something else. Nobody is to blame for certain.
        UnreachableError: It went away, or did not answer in time.
    """
    end = time.monotonic() + timeout
    challenge = secrets.token_hex(32)
    wire = Wire(sock)
    try:
        hello = {"challenge": challenge, "offer": offer.decode(), "signature": signature}
        wire.write([frames.plain(OFFER, hello)], end)
        _, body = _next(wire, end, ANSWER)
        said = frames.read_plain(body, "answer", "signature")
        answered = said["answer"].encode()
        verify(answered, said["signature"], CHANNEL, parse_public(site_key, "the site's key"))
        answer = read_answer(answered, offer, challenge)
        ours, theirs = _keys(key, answer.key, offer, answered)
        return Channel(wire, ours, theirs)
    except BaseException:
        wire.close()
        raise


def greet(
    sock: socket.socket, coordinator: str, expect: Callable[[Offer], None], timeout: float
) -> tuple[Offer, Channel]:
    """Alice's side: take the coordinator's offer, if it is hers and as expected, answer it, and have a channel to her.

    Args:
        sock: A connection to Bob; closed where this fails.
        coordinator: Her public key, one OpenSSH line, as Alice's own room has it.
        expect: Raises where the offer is not one that Alice takes: of another federation, genesis, site, or terms.
        timeout: In how many seconds the offer must be there.

    Raises:
        UntrustedError: What came is not an offer of hers. Do not retry.
        SettingsError: The door does not serve this site, or Bob is in another federation.
        UnreachableError: There is none now: Bob, the door or the judge is away, or says `later`. Retry.
    """
    end = time.monotonic() + timeout
    wire = Wire(sock)
    try:
        header, body = _next(wire, end, OFFER, ASIDE)
        if header.kind == ASIDE:
            later, reason = frames.read_aside(body)
            raise UnreachableError(reason) if later else SettingsError(reason, _REFUSED)
        said = frames.read_plain(body, "challenge", "offer", "signature")
        offered = said["offer"].encode()
        verify(offered, said["signature"], CHANNEL, parse_public(coordinator, "the coordinator's key"))
        offer = read_offer(offered)
        expect(offer)
        key, challenge = new_key(), _form(_HEX, said["challenge"], "challenge")
        answered = make_answer(offered, offer.site, challenge, key.public)
        theirs, ours = _keys(key, offer.key, offered, answered)
        wire.write([frames.plain(ANSWER, {"answer": answered.decode()})], end)
        return offer, Channel(wire, ours, theirs)
    except BaseException:
        wire.close()
        raise


def _next(wire: Wire, end: float, *kinds: int) -> tuple[Header, bytearray]:
    """One frame of plain JSON."""
    head = bytearray(HEADER_BYTES)
    wire.read_into(memoryview(head), end)
    header = frames.unpack(head)
    frames.check_plain(header, *kinds)
    body = bytearray(header.length)
    wire.read_into(memoryview(body), end)
    return header, body


def _keys(own: EphemeralKey, other: str, offer: bytes, answer: bytes) -> tuple[bytes, bytes]:
    """The keys of what the coordinator sends, and of what the site sends.

    Raises:
        ChannelError: The other's key makes a secret that everybody knows (RFC 7748, section 6.1).
    """
    try:
        secret = own.private.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(other)))
    except ValueError:
        raise ChannelError("the key of the other end is none that can be used") from None
    salt = hashlib.sha256(offer + answer).digest()
    both = HKDF(hashes.SHA256(), 64, salt, _INFO).derive(secret)
    return both[:32], both[32:]


def _written(record: Typed, type_: str) -> bytes:
    return canonical({"type": type_, "version": VERSION, **record.fields()})


def _read(kind: type[Kind], data: bytes, type_: str, what: str) -> Kind:
    try:
        value = parse(data)
        if value.pop("type", None) != type_:
            raise ChannelError(f"what should be the {what} is none")
        if (version := value.pop("version", None)) != VERSION or type(version) is not int:
            raise ChannelError(f"the {what} is of version {str(version)[:20]}, this program reads version {VERSION}")
        found = kind.read(value, f"the {what}")
    except (BundleError, LedgerError) as error:
        raise ChannelError(str(error).replace("the manifest", f"the {what}")) from None
    if found.more:
        raise ChannelError(f"the {what} has the unknown member {min(found.more)[:40]!r}")
    for name in _FORMS.keys() & vars(found).keys():
        _form(_FORMS[name], getattr(found, name), name)
    return found


def _form(form: re.Pattern[str], value: str, name: str) -> str:
    try:
        return matched(form, value, name)
    except BundleError as error:
        raise ChannelError(str(error)) from None

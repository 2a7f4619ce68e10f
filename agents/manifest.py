"""The signed record that travels with a model, in canonical JSON.

Canonical: UTF-8, sorted keys, no insignificant spaces, finite numbers, no key twice. Whatever does not
serialise back to the same bytes is refused, so a signature covers exactly one meaning.

    submission   a site's checkpoint for the coordinator, sealed for her
    report       a site's session is over; travels without a model
    scores       what a release scores at a site, where the terms ask for it; likewise
    masks        what a site says so that updates are summed under masks; likewise
    release      the coordinator's current model, sealed for all sites
    claim        what Alice says of a checkpoint, to Bob only; never leaves the site
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import sys
import time
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, TypeVar, get_type_hints

from fedssh.errors import BundleError, LedgerError
from fedssh.forms import _ID, _SITE, canonical, matched, parse, shown
from fedssh.rules.events import Blob, Local, Measured, Spent
from fedssh.rules.masking import MAX_SIGNED, Advert, Answer, Shares
from fedssh.rules.privacy import POISSON, UNITS
from fedssh.rules.typed import ABSENT, Absent, plain, said

FORMAT = 1

_HEX = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Message = TypeVar("Message", bound="_Message")


def new_id() -> str:
    """A UUIDv7: 48 bits of milliseconds, then random bits (RFC 9562, section 5.7)."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def now() -> str:
    """The time in UTC with milliseconds, such as `2026-01-31T12:00:00.123Z`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def judged_once(id: str | None, sha256: Callable[[], str]) -> str:
    """What is judged once of whatever a site sends: its id, or "bundle " and its SHA-256 where no id could be read.

    Args:
        id: A submission's or a report's.
        sha256: Of the whole bundle; asked for only where there is no id.
    """
    return id or f"bundle {sha256()}"


@dataclass(frozen=True)
class _Message:
    """What all four kinds share: strict reading and canonical writing."""

    kind: ClassVar[str]
    travels: ClassVar[bool] = True

    id: str = said("A UUIDv7, of whoever writes it.")

    def to_bytes(self) -> bytes:
        """The canonical JSON of this message."""
        head = {"kind": self.kind, "format": FORMAT} if self.travels else {"kind": self.kind}
        return canonical(head | {name: plain(value) for name, value in vars(self).items() if value is not ABSENT})

    @classmethod
    def from_bytes(cls: type[Message], data: bytes) -> Message:
        """Read a message of this kind.

        Raises:
            BundleError: Not canonical, of another kind or format, or a field is missing, unknown or out of range.
        """
        return cls.of(parse(data))

    @classmethod
    def of(cls: type[Message], fields: Mapping[str, Any]) -> Message:
        """The same of what was parsed already.

        Raises:
            BundleError: See `from_bytes`.
        """
        value = dict(fields)
        kind, found = value.pop("kind", None), value.pop("format", FORMAT if not cls.travels else None)
        if kind != cls.kind:
            raise BundleError(f"the manifest is of kind {shown(kind, 40)}, expected {cls.kind!r}")
        if type(found) is not int or found != FORMAT:
            raise BundleError(f"the manifest has format {str(found)[:40]}, this program reads format {FORMAT}")
        message: Message = _build(cls, value, "manifest")
        return message


@dataclass(frozen=True)
class Claim(_Message):
    """What Alice says of a checkpoint she publishes to Bob."""

    kind = "claim"
    travels = False

    architecture: str = said("SHA-256 of the canonical spec.")
    builds_on: int = said("The record of the release that the session started from.")
    session: int = said("The session's number, from 1.")
    epoch: int = said("The epoch in it, from 1.")
    examples: int = said("How many images the site trains on; 0 under masks.")
    metrics: Local | None = said("What the checkpoint scored at the site; null where privacy or masks are agreed.")
    started: str = said("When the session began.")
    created: str = said("When this was written.")
    _: KW_ONLY
    privacy: Spent | Absent = said("Where privacy is agreed: what the site has spent.", absent=True)


@dataclass(frozen=True)
class SessionOver(_Message):
    """What Alice tells Bob when a session is over; becomes a `Report`."""

    kind = "report"
    travels = False

    builds_on: int = said("The record of the release that the session started from.")
    session: int = said("The session's number, from 1.")
    epochs: int = said("How many epochs it had.")
    checkpoints: int = said("How many models were published in it.")
    examples: int = said("How many images the site trains on; 0 under masks.")
    metrics: Local | None = said("What the last of them scored at the site; null where there was none, or under masks.")
    started: str = said("When the session began.")
    created: str = said("When this was written.")
    _: KW_ONLY
    passed: bool | Absent = said("true: no session, for nothing was new to train on; its turn passes.", absent=True)


@dataclass(frozen=True)
class SiteScored(_Message):
    """What Alice tells Bob of a release that she took, where that was agreed; becomes `Scores`."""

    kind = "scores"
    travels = False

    builds_on: int = said("The record of the release.")
    examples: int = said("How many validation images it was scored on.")
    metrics: Measured = said("What it scored on them.")
    created: str = said("When this was written.")


@dataclass(frozen=True)
class Submission(Claim):
    """A site's checkpoint for the coordinator: Alice's claim, and what Bob adds to it."""

    kind = "submission"
    travels = True

    sender: str = said("The site's name.")
    recipients: list[str] = said("Fingerprint of the key that the model is sealed for: the coordinator's.")
    model: Blob = said("The plain model file.")
    sealed: Blob = said("The member `model.age`.")


@dataclass(frozen=True)
class Report(SessionOver):
    """A site's session is over: after how many epochs, with how many checkpoints, how good."""

    travels = True

    sender: str = said("The site's name.")


@dataclass(frozen=True)
class Scores(SiteScored):
    """What a release scores on the validation images of a site."""

    travels = True

    sender: str = said("The site's name.")


@dataclass(frozen=True)
class MaskedWord(_Message):
    """What a site says so that updates are summed under masks: one part, or an answer with the next round's advert."""

    kind = "masks"

    sender: str = said("The site's name.")
    builds_on: int = said("The record of the newest release that the site has seen.")
    created: str = said("When this was written.")
    _: KW_ONLY
    advert: Advert | Absent = said("Its keys for a round that has not opened yet.", absent=True)
    shares: Shares | Absent = said("Of its secrets, for the sites of the open round.", absent=True)
    agreed: str | Absent = said("Its signature on who masks and who came, see the record.", absent=True)
    answer: Answer | Absent = said("What takes the masks off the sum of the round that is closing.", absent=True)


@dataclass(frozen=True)
class Release(_Message):
    """The coordinator's current model, what it scored, how to train on, and where the federation stands."""

    kind = "release"

    sender: str = said("`charity`.")
    recipients: list[str] = said("Fingerprints of the keys that the model is sealed for, in order of enrolment.")
    model: Blob = said("The plain model file.")
    sealed: Blob = said("The member `model.age`.")
    architecture: str = said("SHA-256 of the canonical spec, as in genesis.")
    sequence: int = said("The number of its record in the history.")
    head: str = said("The hash of that record.")
    metrics: dict[str, Any] = said("What the model scored on the holdout, as in that record.")
    plan: dict[str, Any] = said("The training plan, as in genesis.")
    federation: dict[str, Any] = said("Where the federation stands, as in that record: a `Standing`.")
    created: str = said("When this was written.")


def _build(cls: type[Any], value: dict[str, Any], where: str) -> Any:
    """Fill a dataclass from JSON, checking every field's presence, type and form."""
    types = get_type_hints(cls)
    wanted = {field.name for field in dataclasses.fields(cls) if "means" in field.metadata}
    optional = {field.name for field in dataclasses.fields(cls) if field.default is ABSENT}
    if missing := sorted(wanted - optional - value.keys()):
        raise BundleError(f"the {where} lacks {missing[0]!r}")
    if unknown := sorted(value.keys() - wanted):
        raise BundleError(f"the {where} has the unknown field {unknown[0][:40]!r}")
    found = cls(**{name: _checked(name, types[name], value[name]) for name in wanted & value.keys()})
    if isinstance(found, Local) and (why := found.objection()):
        raise BundleError(f"the {where} {why}")
    return found


def _checked(name: str, wanted: Any, value: Any) -> Any:
    if wanted == Local | None:
        return None if value is None else _checked(name, Local, value)
    if wanted == Spent | Absent:
        wanted = Spent
    if wanted == str | Absent:
        if not isinstance(value, str) or len(value) > MAX_SIGNED:
            raise BundleError(f"{name!r} of the manifest is no signature")
        return value
    if isinstance(wanted, types.UnionType) and (one := typing.get_args(wanted)[0]) in (Advert, Shares, Answer):
        try:
            return one.read(value, f"{name!r} of the manifest")
        except LedgerError as error:
            raise BundleError(str(error)) from None
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, dict):
            raise BundleError(f"{name!r} of the manifest is not an object")
        return _build(wanted, value, f"manifest's {name!r}")  # type: ignore[arg-type]
    if wanted is int:
        if type(value) is not int or not 0 <= value < 2**53:
            raise BundleError(f"{name!r} of the manifest is {str(value)[:40]}, expected a whole number from 0")
        return value
    if wanted in (float, float | Absent):
        # A whole number too large for a float is as absurd here as an infinite one, and arithmetic raises on it.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise BundleError(f"{name!r} of the manifest is {str(value)[:40]}, expected a number")
        return value
    if wanted == bool | Absent:
        if value is not True:  # false is said by leaving it out
            raise BundleError(f"{name!r} of the manifest is {str(value)[:40]}, expected true")
        return value
    if wanted == list[str]:
        if not isinstance(value, list) or not value:
            raise BundleError(f"{name!r} of the manifest is not a list with entries")
        return [matched(_FINGERPRINT, entry, name) for entry in value]
    if wanted == dict[str, Any]:
        if not isinstance(value, dict):
            raise BundleError(f"{name!r} of the manifest is not an object")
        return value
    return matched(_FORMS[name], value, name)


_FORMS = {
    "id": _ID,
    "sender": _SITE,
    "sha256": _HEX,
    "architecture": _HEX,
    "head": _HEX,
    "started": _TIME,
    "created": _TIME,
    "unit": re.compile("|".join(UNITS)),
    "sampling": re.compile(POISSON),
}

"""The signed record that travels with a model, in canonical JSON.

Canonical: UTF-8, sorted keys, no insignificant spaces, finite numbers, no key twice. Whatever does not
serialise back to the same bytes is refused, so a signature covers exactly one meaning.

    submission   a site's checkpoint for the coordinator, sealed for her
    report       a site's session is over; travels without a model
    release      the coordinator's current model, sealed for all sites
    claim        what Alice says of a checkpoint, to Bob only; never leaves the site
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_type_hints

from agents.errors import BundleError

FORMAT = 1
MAX_BYTES = 64 * 1024
MAX_DEPTH = 16  # far less than what Python can walk, wherever it stands when it walks

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_HEX = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

Message = TypeVar("Message", bound="_Message")


def canonical(value: Any) -> bytes:
    """The one serialisation of a JSON value.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def parse(data: bytes) -> dict[str, Any]:
    """Read a canonical JSON object.

    Raises:
        BundleError: Too large, not JSON, not an object, or not the canonical serialisation of itself.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"the manifest has {len(data):,} bytes, expected at most {MAX_BYTES:,}")
    try:
        value = json.loads(data)
        _check_depth(value)
        same = canonical(value) == data
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the manifest is not canonical JSON: {error}") from None
    if not isinstance(value, dict) or not same:
        raise BundleError("the manifest is not canonical JSON")
    return value


def shown(value: object, length: int = 60) -> str:
    """A value of unknown origin, fit for a message: short, quoted, and without what a terminal would act on."""
    return f"{value[:length]!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def new_id() -> str:
    """A UUIDv7: 48 bits of milliseconds, then random bits (RFC 9562, section 5.7)."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def check_id(text: object) -> str:
    """An identifier as `new_id` makes it.

    Raises:
        BundleError: Anything else.
    """
    return _matched(_ID, text, "id")


def check_site(text: object) -> str:
    """A site's name: 1 to 32 lower-case letters, digits and inner dashes.

    Raises:
        BundleError: Anything else.
    """
    return _matched(_SITE, text, "site name")


def now() -> str:
    """The time in UTC with milliseconds, such as `2026-01-31T12:00:00.123Z`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Blob:
    """The bytes of a file: their SHA-256 in hexadecimal and their number."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Local:
    """What the trainer measured on the site's own validation split."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class _Message:
    """What all four kinds share: strict reading and canonical writing."""

    kind: ClassVar[str]
    travels: ClassVar[bool] = True

    id: str

    def to_bytes(self) -> bytes:
        """The canonical JSON of this message."""
        head = {"kind": self.kind, "format": FORMAT} if self.travels else {"kind": self.kind}
        return canonical(head | {k: v for k, v in dataclasses.asdict(self).items()})

    @classmethod
    def from_bytes(cls: type[Message], data: bytes) -> Message:
        """Read a message of this kind.

        Raises:
            BundleError: Not canonical, of another kind or format, or a field is missing, unknown or out of range.
        """
        value = parse(data)
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

    architecture: str
    builds_on: int
    session: int
    epoch: int
    examples: int
    metrics: Local
    started: str
    created: str


@dataclass(frozen=True)
class SessionOver(_Message):
    """What Alice tells Bob when a session is over; becomes a `Report`."""

    kind = "report"
    travels = False

    builds_on: int
    session: int
    epochs: int
    checkpoints: int
    examples: int
    metrics: Local | None
    started: str
    created: str


@dataclass(frozen=True)
class Submission(Claim):
    """A site's checkpoint for the coordinator: Alice's claim, and what Bob adds to it."""

    kind = "submission"
    travels = True

    sender: str
    recipients: list[str]
    model: Blob
    sealed: Blob


@dataclass(frozen=True)
class Report(SessionOver):
    """A site's session is over: after how many epochs, with how many checkpoints, how good."""

    travels = True

    sender: str


@dataclass(frozen=True)
class Release(_Message):
    """The coordinator's current model, what it scored, how to train on, and where the federation stands."""

    kind = "release"

    sender: str
    recipients: list[str]
    model: Blob
    sealed: Blob
    architecture: str
    sequence: int
    head: str
    metrics: dict[str, Any]
    plan: dict[str, Any]
    federation: dict[str, Any]
    created: str


def _build(cls: type[Any], value: dict[str, Any], where: str) -> Any:
    """Fill a dataclass from JSON, checking every field's presence, type and form."""
    types = get_type_hints(cls)
    wanted = {field.name for field in dataclasses.fields(cls)}
    if missing := sorted(wanted - value.keys()):
        raise BundleError(f"the {where} lacks {missing[0]!r}")
    if unknown := sorted(value.keys() - wanted):
        raise BundleError(f"the {where} has the unknown field {unknown[0][:40]!r}")
    return cls(**{name: _checked(name, types[name], value[name]) for name in wanted})


def _checked(name: str, wanted: Any, value: Any) -> Any:
    if wanted == Local | None:
        return None if value is None else _checked(name, Local, value)
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, dict):
            raise BundleError(f"{name!r} of the manifest is not an object")
        return _build(wanted, value, f"manifest's {name!r}")  # type: ignore[arg-type]
    if wanted is int:
        if type(value) is not int or not 0 <= value < 2**53:
            raise BundleError(f"{name!r} of the manifest is {str(value)[:40]}, expected a whole number from 0")
        return value
    if wanted is float:
        # A whole number too large for a float is as absurd here as an infinite one, and arithmetic raises on it.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise BundleError(f"{name!r} of the manifest is {str(value)[:40]}, expected a number")
        return value
    if wanted == list[str]:
        if not isinstance(value, list) or not value:
            raise BundleError(f"{name!r} of the manifest is not a list with entries")
        return [_matched(_FINGERPRINT, entry, name) for entry in value]
    if wanted == dict[str, Any]:
        if not isinstance(value, dict):
            raise BundleError(f"{name!r} of the manifest is not an object")
        return value
    return _matched(_FORMS[name], value, name)


_FORMS = {
    "id": _ID,
    "sender": _SITE,
    "sha256": _HEX,
    "architecture": _HEX,
    "head": _HEX,
    "started": _TIME,
    "created": _TIME,
}


def _matched(form: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise BundleError(f"{name!r} is {shown(value)}, which is not of its form")
    return value

"""What a field may be, and how it is written: forms, canonical JSON, names, identifiers. Standard library only.

A form says what a setting, a term, an option or a key of an experiment may be, for all of them in the same words:

    whole(1, 16)                a whole number in 1..16
    number(least=0, below=1)    a number from 0 to below 1
    one_of("on", "off")         one of on, off
    named, text, yes_or_no      a name of lower-case letters, digits and dashes; any text; true or false

Canonical: UTF-8, sorted keys, no insignificant spaces, finite numbers, no key twice. Whatever does not serialise back
to the same bytes is refused, so a signature covers exactly one meaning.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Collection
from typing import Any, Generic, TypeVar

from fedssh.errors import BundleError

T = TypeVar("T")
Kind = TypeVar("Kind", covariant=True)

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16  # far less than what Python can walk, wherever it stands when it walks

MOST_WHOLE = 2**31 - 1

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Expected(ValueError):
    """A value is not what it may be. The message is the end of a sentence, such as `expected a number above 0`."""


class Form(Generic[Kind]):
    """What a field may be: called with a value of JSON, TOML or a program, it returns the value as it is used.

    Attributes:
        choices: The only words that it may be; empty where there are others.
    """

    def __init__(
        self, take: Callable[[Any], Kind], parse: Callable[[str], Any] = str, choices: tuple[str, ...] = ()
    ) -> None:
        self._take, self._parse, self.choices = take, parse, choices

    def __call__(self, value: Any) -> Kind:
        """Take a value.

        Raises:
            ValueError: It is not what it may be; `Expected` where that takes the value's name before it.
        """
        return self._take(value)

    def read(self, text: str) -> Kind:
        """Take what stands in a flag, a variable or an option of a policy.

        Raises:
            ValueError: As above.
        """
        return self._take(self._parse(text))


def whole(least: int | None = 0, most: int | None = MOST_WHOLE) -> Form[int]:
    """A whole number in a range; None is no limit."""
    limits = "" if least is None else f" from {least:,}" if most is None else f" in {least:,}..{most:,}"

    def take(value: Any) -> int:
        low, high = (value if limit is None else limit for limit in (least, most))
        if type(value) is not int or not low <= value <= high:
            raise Expected(f"expected a whole number{limits}")
        return value

    return Form(take, _or_text(int))


def number(
    least: float | None = None, most: float | None = None, *, above: float | None = None, below: float | None = None
) -> Form[float]:
    """A finite number in a range.

    Args:
        least, most: Limits that it may be.
        above, below: Limits that it may not be.
    """
    parts = {"from": least, "above": above, "to": most, "to below": below}
    limits = "".join(f" {words} {limit:g}" for words, limit in parts.items() if limit is not None)
    end = sys.float_info.max  # beyond it are infinity, NaN and whole numbers that are no float

    def take(value: Any) -> float:
        if (
            type(value) not in (int, float)
            or not -end <= value <= end
            or (least is not None and value < least)
            or (most is not None and value > most)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
        ):
            raise Expected(f"expected a number{limits}")
        return float(value)

    return Form(take, _or_text(float))


def one_of(*words: str) -> Form[str]:
    """One of a few words."""

    def take(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise Expected(f"expected one of {', '.join(words)}")
        return value

    return Form(take, choices=words)


def checked(what: str, value: object, take: Callable[[Any], T]) -> T:
    """A value as it is used.

    Args:
        what: The value's name, as the beginning of a message.
        take: A form, or its `read`.

    Raises:
        ValueError: It is not what it may be: `margin is 2, expected a number from 0 to below 1`.
    """
    try:
        return take(value)
    except Expected as error:
        raise ValueError(f"{what} is {_found(value)}, {error}") from None
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def nearest(word: str, known: Collection[str]) -> str:
    """What else may have been meant, as the end of a message."""
    import difflib  # only where something is wrong

    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known) or 'none'}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Expected("expected a text")
    return value


def _named(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Expected("expected a name of lower-case letters, digits and dashes")
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Expected("expected true or false")
    return value


def _word(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise Expected("expected yes or no")
    return words[text.lower()]


text = Form(_text)
named = Form(_named)
yes_or_no = Form(_yes_or_no, _word)


def _or_text(kind: Callable[[str], float]) -> Callable[[str], float | str]:
    """Reads a number; a text that is none stays what it is, which no number may be."""

    def parse(text: str) -> float | str:
        try:
            return kind(text)
        except ValueError:
            return text

    return parse


def _found(value: object) -> str:
    """A value in a message: short, as it is written."""
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, default=str)[:60]


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


def printable(text: str) -> str:
    """A text with everything escaped that a terminal would act on or not show: controls, direction marks."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


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


def check_id(text: object) -> str:
    """An identifier as `new_id` makes it.

    Raises:
        BundleError: Anything else.
    """
    return matched(_ID, text, "id")


def check_site(text: object) -> str:
    """A site's name: 1 to 32 lower-case letters, digits and inner dashes.

    Raises:
        BundleError: Anything else.
    """
    return matched(_SITE, text, "site name")


@functools.lru_cache(maxsize=4096)  # a release asks for every site's
def fingerprint(line: str) -> str:
    """`SHA256:…` of any public key line, as `ssh-keygen -l` prints it."""
    import base64  # with a library for hashes, which no --help needs
    import hashlib

    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def matched(form: re.Pattern[str], value: object, name: str) -> str:
    """A text that is of this form from its first to its last letter.

    Raises:
        BundleError: It is not, or is no text; `name` says which part it is.
    """
    if not isinstance(value, str) or not form.fullmatch(value):
        raise BundleError(f"{name!r} is {shown(value)}, which is not of its form")
    return value

"""What a field may be, and how it is written: canonical JSON, names, identifiers, fingerprints. Standard library only.

Canonical: UTF-8, sorted keys, no insignificant spaces, finite numbers, no key twice. Whatever does not serialise back
to the same bytes is refused, so a signature covers exactly one meaning.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from typing import Any

from fedssh.errors import BundleError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16  # far less than what Python can walk, wherever it stands when it walks

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


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
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def matched(form: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise BundleError(f"{name!r} is {shown(value)}, which is not of its form")
    return value

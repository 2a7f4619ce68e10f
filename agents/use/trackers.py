"""Where `charity export --to` may lead: KIND:PLACE, with the kinds that there are; and what may be printed of it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from fedssh.errors import SettingsError

KINDS = {"tensorboard": "DIR", "mlflow": "URI", "hub": "DIR"}
FORMS = " | ".join(f"{kind}:{place}" for kind, place in KINDS.items())

_SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)


class Place(NamedTuple):
    """Where to.

    Attributes:
        kind: Of `KINDS`.
        place: A folder, or a tracking store's URI.
    """

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind}:{shown(self.place) if self.kind == 'mlflow' else self.place}"


def read_place(text: str) -> Place:
    """Read it.

    Raises:
        SettingsError: It is none.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS or not place:
        raise SettingsError(f"--to is {shown(text)[:60]!r}", f"forms are {FORMS}")
    return Place(kind, place)


def shown(uri: str) -> str:
    """A URI as it may be printed: without who logs in, and without what is asked of a server after `?`."""
    scheme, mark, rest = uri.partition("://")
    if not mark or rest.startswith("/"):
        return uri  # a file: it has no password
    rest = re.sub(r"\?.*", "?…", rest.rpartition("@")[2], flags=re.DOTALL)
    return f"{scheme}://{'…@' if '@' in uri else ''}{rest}"


def without_secrets(text: str, uri: str) -> str:
    """What a library says, without the secrets of the URI that it was given, in whichever form."""
    _, mark, rest = uri.partition("://")
    if not mark or rest.startswith("/"):
        return text
    login = rest.rpartition("@")[0]
    _, _, password = login.partition(":")
    query = rest.partition("?")[2]
    asked = [value for name, value in parse_qsl(query) if _SECRET.search(name)]
    text = text.replace(uri, shown(uri))
    if login:
        text = text.replace(f"{login}@", "…@")
    for secret in filter(None, (query, password, unquote(password), *asked, *map(quote, asked))):
        text = text.replace(secret, "…")
    return re.sub(r"://[^/\s@]*@", "://…@", text)

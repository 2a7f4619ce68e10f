"""Where `charity export --to` may lead: KIND:PLACE, with the kinds that there are."""

from __future__ import annotations

from typing import NamedTuple

from fedssh.errors import SettingsError

KINDS = {"tensorboard": "DIR", "mlflow": "URI", "hub": "DIR"}
FORMS = " | ".join(f"{kind}:{place}" for kind, place in KINDS.items())


class Place(NamedTuple):
    """Where to.

    Attributes:
        kind: Of `KINDS`.
        place: A folder, or a tracking store's URI.
    """

    kind: str
    place: str


def read_place(text: str) -> Place:
    """Read it.

    Raises:
        SettingsError: It is none.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS or not place:
        raise SettingsError(f"--to is {text[:60]!r}", f"forms are {FORMS}")
    return Place(kind, place)

"""Which records are asked for: from when on, of whom, of which kind, and the newest how many. Pure.

    --since 2026-11-26, 2026-11-26T10:00, 2026-11-26T10:00:30    from then on, in UTC
    --since 90s, 30m, 2h, 3d, 1w                                 from so long ago on
    --site NAME[,NAME…]  --event NAME[,NAME…]                    of one of these; may be repeated
    --last N                                                     of those the newest N
    --after SEQ                                                  only records above SEQ

Nothing here is a pattern: names are compared whole, so there is none that takes long to match.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

    from fedssh.history.views import Fields, History

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SHAPES = ("0000-00-00", "0000-00-00T00:00", "0000-00-00T00:00:00", "0000-00-00T00:00:00.000")
_AT_ONCE = 1024  # records that are looked at to find the newest of some kind
_FORMS = ("--json", "--csv", "--export")
_GAPS = ("--since", "--site", "--event")


class Misasked(Exception):
    """What is asked for does not fit together, or is nothing that there could be."""


def check(given: Collection[str]) -> None:
    """Refuse options of `history` that contradict each other.

    Raises:
        Misasked: Says which, and why.
    """
    forms, gaps = ([name for name in names if name in given] for names in (_FORMS, _GAPS))
    if len(forms) > 1:
        raise Misasked(f"{forms[0]} and {forms[1]} are two forms; give one of them")
    if gaps and "--export" in given:
        raise Misasked(f"{gaps[0]} would leave gaps in an --export, which then is no chain; --after and --last do not")
    if "--round" in given and "--export" not in given:
        raise Misasked("--round belongs to --export")
    if "--round" in given and "--follow" in given:
        raise Misasked("--round waits for one round, and --follow has no end; give one of them")


def since(text: str, now: float) -> str:
    """The first moment that is meant, as records write their time.

    Args:
        text: A date, a time, or an age.
        now: In seconds since 1970.

    Raises:
        Misasked: It is none of these.
    """
    from datetime import UTC, datetime

    shape = "".join("0" if letter in "0123456789" else letter for letter in text.removesuffix("Z"))
    count, unit = text[:-1], text[-1:]
    try:
        if shape in _SHAPES:
            moment = datetime.fromisoformat(text.removesuffix("Z"))
        elif count.isascii() and count.isdigit() and len(count) <= 15 and unit in _SECONDS:
            moment = datetime.fromtimestamp(max(0.0, now - int(count) * _SECONDS[unit]), UTC)
        else:
            raise ValueError
    except ValueError:  # also a thirteenth month
        expected = "a date or time in UTC such as 2026-11-26 or 2026-11-26T10:00, or an age such as 30m, 2h, 3d"
        raise Misasked(f"--since is {text[:40]!r}, expected {expected}") from None
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def names(given: Sequence[str]) -> frozenset[str]:
    """The names in an option that may be repeated, and have commas in it."""
    return frozenset(name for text in given for name in text.split(",") if name)


def events(given: Sequence[str]) -> frozenset[str]:
    """The kinds of records that are named.

    Raises:
        Misasked: There is none of that name; says which is the nearest.
    """
    from fedssh.rules.events import EVENTS  # of all kinds, which takes a moment

    return _known("--event", names(given), tuple(EVENTS), "is no event")


def sites(given: Sequence[str], enrolled: Collection[str]) -> frozenset[str]:
    """The sites and auditors that are named.

    Raises:
        Misasked: One was never enrolled; says who has the nearest name.
    """
    return _known("--site", names(given), enrolled, "was never enrolled")


def _known(option: str, asked: frozenset[str], known: Collection[str], problem: str) -> frozenset[str]:
    from fedssh.forms import nearest

    if not asked:
        raise Misasked(f"{option} names nothing")
    for name in sorted(asked - set(known)):
        raise Misasked(f"{option}: {name[:40]!r} {problem}{nearest(name[:40], known)}")
    return asked


def every(record: Fields) -> bool:
    """Where nothing is said."""
    return True


def picks(asked: Mapping[str, Any]) -> Callable[[Fields], bool]:
    """Whether a record is asked for.

    Args:
        asked: `since` as records write a time, `sites`, `events`; what is missing leaves nothing out.
    """
    begin, of, kinds = asked.get("since", ""), asked.get("sites"), asked.get("events")
    if not begin and of is None and kinds is None:
        return every

    def one(record: Fields) -> bool:
        return (
            (not begin or str(record["time"]) >= begin)
            and (of is None or record.get("site") in of)
            and (kinds is None or record["event"] in kinds)
        )

    return one


def chosen(
    history: History, given: Mapping[str, Any], enrolled: Callable[[], Collection[str]], now: float
) -> tuple[Callable[[Fields], bool], int]:
    """What options of `history` ask for: whether a record is asked for, and the number above which to look.

    Args:
        given: The options by their names, which `check` has looked at.
        enrolled: Says who ever was, where sites are named.
        now: In seconds since 1970.

    Raises:
        Misasked: One names what there cannot be.
    """
    asked: dict[str, Any] = {}
    if "--since" in given:
        asked["since"] = since(given["--since"], now)
    if "--site" in given:
        asked["sites"] = sites(given["--site"], enrolled())
    if "--event" in given:
        asked["events"] = events(given["--event"])
    one, after = picks(asked), given.get("--after", 0)
    return one, before_last(history, given["--last"], one, after) if "--last" in given else after


def before_last(history: History, last: int, one: Callable[[Fields], bool], after: int = 0) -> int:
    """The number of a record above which there are just so many of those asked for, or `after` when there are fewer.

    Looks from the newest back, some at a time, so that neither memory nor, mostly, time grows with the history.
    """
    upper, left = history.count, last
    if one is every:
        return max(after, upper - last)
    while left and upper > after:
        lower, found = max(after, upper - _AT_ONCE), []
        for record in history.rows(lower):
            if record["sequence"] > upper:
                break
            if one(record):
                found.append(record["sequence"])
        if len(found) >= left:
            return int(found[-left]) - 1
        upper, left = lower, left - len(found)
    return after if left else max(after, upper)

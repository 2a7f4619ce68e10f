"""How many bundles of a site get a record: so many per hour, and so many invalid ones, as agreed in genesis. Pure.

    genesis "rates"   {"submissions_per_hour": n, "invalid_per_hour": n}, for each site by itself; 0 is no limit, and a
                      federation that began without the field has none

Each rate is a bucket that holds one hour's worth and refills evenly, so a site may send that many at once and then one
every 3600/n seconds. A bucket is kept as one time, the one at which it is full again (the theoretical arrival time of
ITU-T I.371, annex A), and only the times in the history move it: whoever reads the history knows the bucket, and a
restart changes nothing. Standard library only: the door tells of it in `status`.
"""

from __future__ import annotations

from fedssh.rules.vocabulary import JUDGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HOUR = 3600.0
BUNDLES, INVALID, GARBAGE = 0, 1, 2  # places in what is kept of a site; the third is when garbage was last recorded
NEVER = (0.0, 0.0, 0.0)

Used = tuple[float, float, float]


def agreed(genesis: Mapping[str, Any]) -> tuple[int, int]:
    """Bundles and invalid bundles per hour; 0 is no limit."""
    rates = genesis.get("rates") or {}
    return int(rates.get("submissions_per_hour") or 0), int(rates.get("invalid_per_hour") or 0)


def follow(used: Mapping[str, Used], fields: Mapping[str, Any], rates: tuple[int, int]) -> Mapping[str, Used]:
    """What is used after one more record, by site."""
    event, site = fields["event"], fields.get("site")
    if not any(rates) or not (event in JUDGED or event == "garbage"):
        return used
    time = seconds(fields["time"])
    bundles, invalid, garbage = used.get(str(site), NEVER)
    if event == "garbage":
        garbage = time
    else:
        bundles = spend(bundles, time, rates[BUNDLES])
    if event == "invalid":
        invalid = spend(invalid, time, rates[INVALID])
    return {**used, str(site): (bundles, invalid, garbage)}


def spend(full: float, time: float, per_hour: int) -> float:
    """When a bucket is full again after one was taken at a time."""
    if not per_hour:
        return full
    if full > time + 2 * HOUR:  # of a clock that has been put right since
        full = time
    return max(full, time) + HOUR / per_hour


def wait(full: float, now: float, per_hour: int) -> float:
    """Seconds until one may be taken from a bucket."""
    if not per_hour or full > now + 2 * HOUR:
        return 0.0
    return max(0.0, full + HOUR / per_hour - HOUR - now)


def waits(used: Used, now: float, rates: tuple[int, int]) -> tuple[float, float]:
    """Seconds until a bundle of a site may be judged, and until an invalid one may get its record."""
    return wait(used[BUNDLES], now, rates[BUNDLES]), wait(used[INVALID], now, rates[INVALID])


def seconds(time: str) -> float:
    """A record's time in seconds since 1970."""
    import datetime  # a millisecond that the door spends only where there are rates

    return datetime.datetime.fromisoformat(time).timestamp()

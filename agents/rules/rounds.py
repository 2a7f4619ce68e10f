"""The rules of a round: who is selected, and when it closes. Pure: no file, network or clock.

A round opens for a fraction of the sites (McMahan et al. 2017, Algorithm 1), collects one update of each, and closes
when all are in, or at its deadline with enough of them. At a deadline with too few it is extended to all sites and
closes with the first that make enough: so no slow or dead site holds up the others for ever, and nothing that came in
is thrown away. Only when too few are in and no site is left that could send one, it closes without a result.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fedssh.rules.events import Blob
from fedssh.rules.masking import Masking, threshold
from fedssh.rules.policies import Policy

ANSWERING = 0.25  # of the deadline: under masks, within so much of it sites give shares, and answer in the end


@dataclass(frozen=True)
class Update:
    """One site's part in a round.

    Attributes:
        record: Sequence of the record that counted it.
        model: Its file.
        examples: How many images it was trained on.
    """

    site: str
    record: int
    model: Blob
    examples: int


@dataclass(frozen=True)
class Round:
    """A round that is open.

    Attributes:
        number: From 1.
        sites: Who may send an update.
        selected: Who was selected when it opened, without those revoked since.
        opened: When, in seconds since 1970.
        record: Sequence of the record that opened it.
        updates: What has come in, in order of arrival.
        empty: From whom nothing of use will come, because training diverged, the bundle is invalid, or they were
            revoked, perhaps after they had trained for this round: nobody waits for them.
        groups: How far its masks are, of each group; none where updates are not masked.
        since: When the last of its steps was taken, where they are, in seconds since 1970.
    """

    number: int
    sites: tuple[str, ...]
    selected: tuple[str, ...]
    opened: float
    record: int = 0
    updates: tuple[Update, ...] = ()
    empty: tuple[str, ...] = ()
    groups: tuple[Masking, ...] = ()
    since: float = 0.0

    @functools.cached_property
    def awaited(self) -> tuple[str, ...]:
        """Who may still send something."""
        able = self.missing if not self.settled else [site for site in self.missing if site in self.partners]
        return tuple(site for site in able if site not in self.empty)

    @functools.cached_property
    def missing(self) -> tuple[str, ...]:
        """Who has sent nothing yet."""
        heard = {update.site for update in self.updates}
        return tuple(site for site in self.sites if site not in heard)

    def group(self, site: str) -> Masking | None:
        """The group that a site is in; None where it is in none."""
        return next((one for one in self.groups if site in one.roster.sites), None)

    @property
    def settled(self) -> bool:
        """Under masks: whether it is settled who masks with whom."""
        return bool(self.groups) and self.groups[0].partners is not None

    @property
    def closing(self) -> bool:
        """Under masks: whether it is settled whose updates are summed."""
        return bool(self.groups) and self.groups[0].arrived is not None

    @property
    def confirmed(self) -> bool:
        """Under masks: whether it is settled that enough have signed whose updates are summed."""
        return bool(self.groups) and self.groups[0].confirmed is not None

    @property
    def partners(self) -> tuple[str, ...]:
        """Under masks: all who mask, by name."""
        return tuple(sorted(site for one in self.groups for site in one.partners or ()))


class Due(Enum):
    """What a round is due for; under masks it is settled first who masks with whom, and whose updates are summed."""

    NOTHING = "nothing"
    CLOSE = "close"
    EXTEND = "extend"
    PARTNERS = "partners"
    CLOSING = "closing"
    AGREED = "agreed"


def select(sites: Sequence[str], fraction: float, seed: int, number: int) -> tuple[str, ...]:
    """The sites of round `number`: as many as `fraction` says, at least one, in the order of `sites`.

    They are those with the smallest SHA-256 of "seed/number/site", so anybody can check the draw.
    """
    count = max(1, math.floor(fraction * len(sites) + 0.5))
    drawn = sorted(sites, key=lambda site: hashlib.sha256(f"{seed}/{number}/{site}".encode()).digest())[:count]
    return tuple(site for site in sites if site in drawn)


def can_open(policy: Policy, sites: Sequence[str]) -> bool:
    """Whether there are enough sites for a round that can close."""
    return len(sites) >= least_sites(policy)


def least_sites(policy: Policy) -> int:
    """How many sites must be enrolled before a round opens."""
    return max(int(policy.values["sites"]), policy.least)


def needed(policy: Policy, selected: int) -> int:
    """How many updates let a round close at its deadline."""
    least = max(policy.least, threshold(selected)) if policy.masked else policy.least
    return max(least, math.ceil(float(policy.values["minimum"]) * selected - 1e-9))


def due(policy: Policy, current: Round, sites: Sequence[str], now: float) -> Due:
    """What has to happen to the open round now.

    Args:
        sites: Everybody enrolled.
        now: In seconds since 1970.
    """
    if current.groups:
        return _due_masked(policy, current, now)
    enough = len(current.updates) >= needed(policy, len(current.selected))
    complete = not current.awaited
    if enough and (complete or seconds_left(policy, current, now) <= 0):
        return Due.CLOSE
    others = set(sites) - set(current.sites) - set(current.empty)
    if others and (complete or seconds_left(policy, current, now) <= 0):
        return Due.EXTEND
    return Due.CLOSE if complete else Due.NOTHING


def _due_masked(policy: Policy, current: Round, now: float) -> Due:
    """What a round is due for whose updates are masked. Its sites stay those of its roster, however few send."""
    late = now >= current.since + ANSWERING * float(policy.values["deadline"])
    if not current.settled:
        waits = [site for one in current.groups for site in _unshared(current, one)]
        if waits and not late:
            return Due.NOTHING
        return Due.PARTNERS if any(partners_of(current, one) for one in current.groups) else Due.CLOSE
    if not current.closing:
        if current.awaited and seconds_left(policy, current, now) > 0:
            return Due.NOTHING
        return Due.CLOSING if any(arrived_of(policy, current, one) for one in current.groups) else Due.CLOSE
    if not current.confirmed:
        short = [one for one in current.groups if one.arrived and not confirmed_of(one)]
        if any(_unsigned(current, one) for one in short) and not late:
            return Due.NOTHING
        return Due.AGREED if any(confirmed_of(one) for one in current.groups) else Due.CLOSE
    done = all(is_open(one) or not one.confirmed or not _unanswered(current, one) for one in current.groups)
    return Due.CLOSE if done or late else Due.NOTHING


def partners_of(current: Round, masking: Masking) -> tuple[str, ...]:
    """Who of a group gave shares and is still there, by name; nobody where they are too few."""
    found = tuple(sorted(site for site in masking.shares if site in current.sites))
    return found if len(found) >= masking.roster.threshold else ()


def arrived_of(policy: Policy, current: Round, masking: Masking) -> tuple[str, ...]:
    """Whose updates of a group are there, by name; nobody where they are too few."""
    found = tuple(sorted(one.site for one in current.updates if one.site in (masking.partners or ())))
    return found if len(found) >= needed(policy, len(masking.roster.sites)) else ()


def is_open(masking: Masking) -> bool:
    """Whether enough have answered to take the masks off a group's sum."""
    return bool(masking.confirmed) and len(masking.answers) >= masking.roster.threshold


def confirmed_of(masking: Masking) -> tuple[str, ...]:
    """Who of a group has signed who came, by name; nobody where they are too few."""
    found = tuple(sorted(masking.agreed))
    return found if masking.arrived and len(found) >= masking.roster.threshold else ()


def _unsigned(current: Round, masking: Masking) -> list[str]:
    return [site for site in masking.arrived or () if site not in masking.agreed and site in current.sites]


def _unshared(current: Round, masking: Masking) -> list[str]:
    there = (site for site in masking.roster.sites if site in current.sites)
    return [site for site in there if site not in masking.shares and site not in current.empty]


def _unanswered(current: Round, masking: Masking) -> list[str]:
    return [site for site in masking.partners or () if site not in masking.answers and site in current.sites]


def ends_waiting(fields: Mapping[str, Any], opened: int) -> bool:
    """Whether a record, written while a round is open, says that its site sends nothing of use to it any more.

    Args:
        fields: The record's.
        opened: Sequence of the record that opened the round; a report on what began earlier says nothing about it.
    """
    if fields["event"] == "report":
        return not fields["checkpoints"] and int(fields["builds_on"]) >= opened
    return fields["event"] in ("invalid", "garbage", "site-revoked")


def why_not(current: Round | None, site: str, number: int) -> str:
    """Why a site's update is not taken into the open round; empty when it is.

    Args:
        site: Who sent it.
        number: The round that it was trained for.
    """
    if current is None:
        return f"round {number} is closed"
    if number != current.number:
        return f"round {number} is closed; round {current.number} is open"
    if site not in current.sites:
        return f"{site} is not among the sites of round {number}"
    if site not in current.missing:
        return f"{site} has an update in round {number} already"
    if current.closing:
        return f"round {number} is closing"
    if current.groups and site not in current.partners:
        return f"{site} has no masks in round {number}"
    return ""


def seconds_left(policy: Policy, current: Round, now: float) -> float:
    """Seconds until the deadline; negative when it has passed."""
    return current.opened + float(policy.values["deadline"]) - now

"""Which of the waiting bundles may be judged now, and what becomes of garbage, under the rates of `rates`.

    inbox/<site>/…              a site above a rate: what it sent stays there, unjudged, until its bucket has room
                                again; the door's quota then stops the site itself
    vault/garbage/<site>.json   {"count","since","after"}: dropped and not recorded yet; counts while the site's last
                                `garbage` record is the one at time `after`

A bundle with a readable id always waits: somebody waits for the verdict on it. One without is garbage, about which
nobody can ask: above the rate of invalid bundles it is dropped and counted, and one record an hour tells how many there
were. Killed after the count was written and before the last of them is removed, these are counted twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fedssh import bundle
from fedssh.charity.intake import Waiting
from fedssh.charity.vault import Vault
from fedssh.commands import tell
from fedssh.errors import UntrustedError
from fedssh.files import write_whole
from fedssh.rules import rates
from fedssh.rules.events import Garbage, Record

logger = logging.getLogger("charity")


class Throttle:
    """What waits, bundle by bundle, as far as the rates let it in.

    Args:
        vault: Whose newest state says what each site has used.
        now: Tells the time in seconds since 1970.
        remove: Takes a bundle out of the inbox, whatever its name leads to by then.
    """

    def __init__(self, vault: Vault, now: Callable[[], float], remove: Callable[[Waiting], None]) -> None:
        self._vault = vault
        self._now = now
        self._remove = remove
        self._said: dict[str, float] = {}
        self.seconds: float | None = None  # until one of those who were held back may go on

    def admitted(self, waiting: Iterable[Waiting]) -> Iterator[Waiting]:
        """The bundles to judge now. The state must be the newest whenever the next one is asked for.

        Whoever is held back is told of once an hour. At the end garbage above the rate is dropped and counted.
        """
        self.seconds = None
        garbage: dict[str, list[Waiting]] = {}
        for one in waiting:
            state = self._vault.state
            used = state.used.get(one.site, rates.NEVER)
            now = self._now()  # the times of the records just made are newer than that of the first look
            both = rates.waits(used, now, state.rates)
            if not any(both):
                yield one
            elif not both[rates.BUNDLES] and _is_garbage(one.path):
                garbage.setdefault(one.site, []).append(one)
            else:
                self._hold(one.site, both, now)
        for site, dropped in garbage.items():
            self._drop(site, dropped, self._now())
        self._record(self._now())

    def _hold(self, site: str, both: tuple[float, float], now: float) -> None:
        self.seconds = max(both) if self.seconds is None else min(self.seconds, max(both))
        if now - self._said.get(site, 0.0) < rates.HOUR:
            return
        self._said[site] = now
        place = rates.BUNDLES if both[rates.BUNDLES] else rates.INVALID
        what = ("bundles", "invalid bundles")[place]
        rate = self._vault.state.rates[place]
        text = f"{site} is above its rate of {rate} {what} an hour: what it sent waits, the next for {max(both):.0f} s"
        tell(logger, "held", text, logging.WARNING, site=site, rate=rate, what=what, seconds=round(max(both), 1))

    def _drop(self, site: str, dropped: list[Waiting], now: float) -> None:
        after = self._vault.state.used.get(site, rates.NEVER)[rates.GARBAGE]
        known = self._pending(site) or {"count": 0, "since": now, "after": after}
        known["count"] += len(dropped)
        write_whole(self._file(site), json.dumps(known).encode())
        for one in dropped:
            self._remove(one)

    def _record(self, now: float) -> None:
        """Tell of what was dropped, once an hour per site."""
        for path in self._vault.folders.garbage.glob("*.json"):
            site = path.stem
            with self._vault.locked() as state:
                pending = self._pending(site)
                last = state.used.get(site, rates.NEVER)[rates.GARBAGE]
                if pending and not last <= now < last + rates.HOUR:
                    _tell_garbage(self._append(site, pending["count"], now - pending["since"]))
                    pending = None
                if pending is None:
                    path.unlink()

    def _append(self, site: str, count: int, seconds: float) -> Record:
        rate = self._vault.state.rates[rates.INVALID]
        what = f"{count:,} {'bundle' if count == 1 else 'bundles'} without a readable id in {seconds:.0f} s"
        reason = f"{what}, above {rate} invalid ones an hour: dropped"
        return self._vault.append(Garbage(site=site, count=count, seconds=round(seconds, 1), reason=reason))

    def _pending(self, site: str) -> dict[str, Any] | None:
        """What was dropped of a site and is not recorded yet."""
        last = self._vault.state.used.get(site, rates.NEVER)[rates.GARBAGE]
        with contextlib.suppress(FileNotFoundError, ValueError):
            known: dict[str, Any] = json.loads(self._file(site).read_bytes())
            return known if known["after"] == last else None
        return None

    def _file(self, site: str) -> Path:
        return self._vault.folders.garbage / f"{site}.json"


def _is_garbage(path: Path) -> bool:
    """Whether nobody can ask for a verdict on a bundle."""
    try:
        with bundle.read(path) as arrived:
            return arrived.id is None
    except UntrustedError:  # no plain file
        return True
    except OSError:  # gone, or not to be read: not this rule's business
        return False


def _tell_garbage(record: Record) -> None:
    fields = record.fields
    text = f"dropped from {fields['site']}: {fields['reason']}"
    about = {name: fields[name] for name in ("site", "count", "reason", "sequence")}
    tell(logger, "garbage", text, logging.WARNING, **about)

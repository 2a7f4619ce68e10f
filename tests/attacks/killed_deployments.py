"""`kill -9` for scripts/deploy: as soon as it has said its n-th line, and before the n-th answer of the cloud; every n.

    python -m tests.attacks.killed_deployments [--every 1] [--only up|cloud|upgrade|down]

Each time from nothing: an `up` that dies, the next one, which must complete with one machine of each label, one more,
which must find nothing to do, and `down`, after which the account is empty. Then the same for `upgrade`, whose history
must be what it was, and for `down`. Machines are containers with an sshd and an engine of their own; the cloud is the
fake of the tests; rooms are stand-ins of a few megabytes. A line per kill; code 1 if one was not survived.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness.cloud import Cloud
from tests.harness.laptop import CLOUD, Laptop, Running, checkout, impatient
from tests.harness.machines import Machines, reason
from tests.harness.waiting import until

LABELS = ["chest-coordinator", "chest-hospital-a"]
VERBS = ("up", "cloud", "upgrade", "down")  # cloud: `up`, killed by requests
HISTORY = "cd /var/lib/fedssh && sha256sum vault/* outbox/* door/* | sort"


def main() -> int:
    """Kill, look, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only each n-th kill")
    parser.add_argument("--only", choices=VERBS)
    options = parser.parse_args()
    if why := reason():
        print(why)
        return 2
    failed = kills = 0
    with tempfile.TemporaryDirectory(prefix="killed-") as name, Machines() as machines:
        attack = Attack(Path(name), machines)
        for verb, tried in zip(VERBS, (attack.up, attack.cloud, attack.upgrade, attack.down), strict=True):
            if options.only in (None, verb):
                for text, complaint in tried(options.every):
                    kills += 1
                    failed += bool(complaint)
                    print(f"{verb:7}  {text:<66}  {complaint or 'survived'}", flush=True)
    print(f"{kills} kills, {kills - failed} survived")
    return int(failed > 0)


class Attack:
    """A folder, machines, and two versions of the same rooms."""

    def __init__(self, folder: Path, machines: Machines) -> None:
        self.folder, self.machines = folder, machines
        self.versions = [
            impatient(checkout(folder / f"version-{number}", charity={"version": number}, bob={"version": number}))
            for number in (1, 2)
        ]
        self._homes = 0

    def home(self, cloud: Cloud) -> Laptop:
        """A new one."""
        self._homes += 1
        laptop = Laptop(self.folder / f"home-{self._homes}", self.versions[0], cloud)
        laptop.inventory(CLOUD)
        return laptop

    @contextmanager
    def account(self) -> Iterator[tuple[Cloud, Laptop]]:
        """A new account and a new home, of which nothing is left afterwards."""
        with Cloud(self.machines.from_request, self.machines.deleted) as cloud:
            cloud.stages = ["running"]
            try:
                yield cloud, self.home(cloud)
            finally:
                for name in list(self.machines.machines):
                    self.machines.remove(name)

    def up(self, every: int) -> Iterator[tuple[str, str]]:
        """A fresh federation; each line."""
        return self.from_nothing(at_line, every)

    def cloud(self, every: int) -> Iterator[tuple[str, str]]:
        """The same; each request."""
        return self.from_nothing(at_request, every)

    def from_nothing(self, kill: Callable[[int, Running, Cloud], str], every: int) -> Iterator[tuple[str, str]]:
        """An `up` that is killed, each time a bit later, until it is not."""
        number, where = 1, "somewhere"
        while where:
            with self.account() as (cloud, laptop):
                where = kill(number, laptop.start("up"), cloud)
                if where:
                    yield where, wrong(self.completes, cloud, laptop)
            number += every

    def completes(self, cloud: Cloud, laptop: Laptop) -> None:
        """The next one does what is missing, the one after it nothing; `down` takes all of it."""
        found = laptop.deploy("up", "--json").json
        assert set(found["proof"]) == {"coordinator", "hospital-a"}, found
        assert sorted(machine["label"] for machine in cloud.machines.values()) == LABELS, cloud.machines
        assert laptop.deploy("up", "--json").json["did"] == []
        assert laptop.holds("PRIVATE KEY") == []
        self.leaves_nothing(cloud, laptop)

    def leaves_nothing(self, cloud: Cloud, laptop: Laptop) -> None:
        """`down` finds all that bills; no process and no registry of it runs."""
        laptop.deploy("down", "--yes")
        assert cloud.machines == {} == cloud.firewalls, cloud.machines
        assert cloud.violations == []
        until(lambda: laptop.processes() == [], 30)

    def upgrade(self, every: int) -> Iterator[tuple[str, str]]:
        """From one version to the other and back; each line."""
        with self.account() as (cloud, laptop):
            laptop.deploy("up")
            before = self.machines.run(LABELS[0], HISTORY)
            number, where = 1, "somewhere"
            while where:
                laptop.version = self.versions[1 - self.versions.index(laptop.version)]
                where = at_line(number, laptop.start("upgrade"), cloud)
                if where:
                    yield where, wrong(self.upgrades, laptop, before)
                number += every

    def upgrades(self, laptop: Laptop, before: str) -> None:
        """The next one goes on; what was said is kept."""
        laptop.deploy("upgrade")
        assert laptop.deploy("upgrade", "--json").json["upgraded"] == []
        assert laptop.deploy("up", "--json").json["did"] == []
        assert self.machines.run(LABELS[0], HISTORY) == before
        left = self.machines.run(
            LABELS[0], "ls -d /var/lib/fedssh/upgrade /var/lib/fedssh/before-* 2>/dev/null || true"
        )
        assert left == "", left

    def down(self, every: int) -> Iterator[tuple[str, str]]:
        """What bills, without machines behind it; each request."""
        number, where = 1, "somewhere"
        while where:
            with Cloud() as cloud:
                laptop = self.home(cloud)
                for label in LABELS:
                    cloud.add_machine(label, ["fedssh-chest"])
                    cloud.add_firewall(label, ["fedssh-chest"])
                where = at_request(number, laptop.start("down", "--yes"), cloud)
                if where:
                    yield where, wrong(self.leaves_nothing, cloud, laptop)
            number += every


def at_line(number: int, running: Running, cloud: Cloud) -> str:
    """Kill it as soon as it has said its n-th line; where that was, or nothing when it ended before."""
    died = running.kill_at(number)
    assert died or running.process.returncode == 0, running.lines
    return f"line {number}: {running.lines[number - 1].removeprefix('deploy: ')[:50]}" if died else ""


def at_request(number: int, running: Running, cloud: Cloud) -> str:
    """Kill it when it waits for the answer to its n-th request; as above."""
    lock, asked = threading.Lock(), list[str]()

    def count(method: str, path: str) -> None:
        with lock:
            asked.append(f"{method} {path[:40]}")
            if len(asked) == number:
                running.process.kill()
                running.process.wait()

    cloud.before = count
    died = running.end().code < 0
    assert died or running.process.returncode == 0, running.lines
    cloud.before = lambda method, path: None
    return f"request {number}: {asked[number - 1]}" if died else ""


def wrong(act: Callable[..., None], *words: Any) -> str:
    """What was not as it must be; empty if all was."""
    begun = time.monotonic()
    try:
        act(*words)
    except AssertionError as error:
        return f"NOT SURVIVED after {time.monotonic() - begun:.0f} s: {' '.join(str(error).split())[:600]}"
    return ""


if __name__ == "__main__":
    sys.exit(main())

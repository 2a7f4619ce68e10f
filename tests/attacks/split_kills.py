"""`kill -9` of the five processes of a turn under `split`, at random moments, and a line that is cut all the time.

    python -m tests.attacks.split_kills [--kills 200] [--seed 1] [--cut BYTES] [--door sshd|embedded] [--policy TEXT]

Two sites train in turns, each for many short epochs. Each connection between a Bob and the door is cut after at most so
many bytes, each time another number. Meanwhile Alice, Bob, the door (its forced command, the server of a connection, or
all of it), `charity serve` and its judge are killed, one at a time and at random moments, also while they still start,
and started again as a service manager would. When the federation has ended before there were so many kills, another one
begins. Each time the last model must be, bit for bit, what one trainer learns of the same images without any room, no
step may be counted twice or left out, and nobody may have ended by himself but Alice at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness.channel import Line
from tests.harness.split import Rooms

POLICY = "split:cut=dense1,wire=f32"
SPEC: dict[str, Any] = {"name": "mlp", "width": 24, "depth": 2, "input": [6, 6, 1], "classes": 3}
WHO = ("alice", "bob", "door", "charity", "judge")
PATIENCE, NEVER = 240.0, float("inf")


class Managed:
    """Rooms whose processes are started again whenever they were killed.

    Args:
        rooms: Not yet begun.
        chance: From which it is drawn who is killed, and when.
    """

    def __init__(self, rooms: Rooms, chance: random.Random) -> None:
        self.rooms, self._chance = rooms, chance
        self.killed: Counter[str] = Counter()

    def start(self) -> None:
        """Everybody."""
        self.rooms.start_all()

    def look_after(self) -> None:
        """Start again whoever was killed.

        Raises:
            AgentFailed: Somebody ended otherwise.
        """
        for agent in [agent for agent in self.rooms.agents if agent.code() == -signal.SIGKILL]:
            agent.signal(signal.SIGKILL)  # a service's whole group goes
            self.rooms.agents.remove(agent)
            self._start_again(agent.name, agent.site or "")
        self.rooms.check()

    def _start_again(self, name: str, site: str) -> None:
        if name == "alice":
            self.rooms.start_alice(site)
        elif name == "bob":
            self.rooms.start_bob(site)
        elif name == "door":
            self.rooms.start_door()
        else:
            self.rooms.start_charity()

    def kill(self, who: str) -> bool:
        """Kill somebody; whether there was anybody."""
        if victims := list(self._victims(who)):
            name, pid = self._chance.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed[name] += 1
                for agent in self.rooms.agents:
                    if agent.pid == pid:
                        agent.wait(10)
                return True
        return False

    def _victims(self, who: str) -> Iterator[tuple[str, int]]:
        for agent in self.rooms.agents:
            if agent.code() is not None:
                continue
            if agent.name == who:
                yield who, agent.pid
            if who == "judge" and agent.name == "charity":
                yield from (("judge", pid) for pid in below(agent.pid))
            if who == "door" and agent.name == "door":
                yield from (("door's commands", pid) for pid in below(agent.pid))


def below(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found, new = [], [pid]
    while new:
        new = [child for child, parent in pairs if parent in new]
        found += new
    return found


def one(rooms: Rooms, chance: random.Random, most: int, cut: int = 1 << 16, who: tuple[str, ...] = WHO) -> Counter[str]:
    """A federation from its start to its end, in which at most so many are killed; who was."""
    managed = Managed(rooms, chance)
    managed.start()
    stuck, due = time.monotonic() + PATIENCE, time.monotonic() + chance.uniform(2, 6)
    order: list[str] = []
    midst = True  # whether the next is killed in the midst of steps; else perhaps while somebody starts
    while not rooms.over():
        managed.look_after()
        if rooms.line:
            rooms.line.most = chance.randint(cut // 4, cut) if cut else 1 << 60
        for event in rooms.heard(0.02):
            word = event.fields.get("event")
            if word == "epoch" and due == NEVER:
                due = time.monotonic() + chance.uniform(0, 2)
            if word in ("epoch", "accepted", "report"):
                stuck = time.monotonic() + PATIENCE
        now = time.monotonic()
        if now >= due and managed.killed.total() < most:
            order = order or chance.sample(who, len(who))  # each as often as the others
            managed.kill(order.pop())
            due, midst = NEVER if midst else now + chance.uniform(0, 8), not midst
        assert now < stuck, f"nothing went on for {PATIENCE:g} s, after {managed.killed}"
    return managed.killed


def wrong(rooms: Rooms, wanted: str) -> str:
    """What is not as it must be; empty if all is."""
    accepted = rooms.happened("accepted")
    steps = [(record["site"], record["work"]["steps"], record["work"]["images"]) for record in accepted]
    planned = [
        (name, rooms.steps(name), rooms.epochs * len(rooms.site_images(name))) for name in rooms.names * rooms.sessions
    ]
    if steps != planned:
        return f"steps {steps}, planned {planned}"
    if rooms.learned() != wanted:
        return f"learned {rooms.learned()}, one trainer {wanted}"
    if others := [record["event"] for record in rooms.happened("invalid", "refused", "turn-passed")]:
        return f"there is {', '.join(others)} in the history"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Kill, look, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cut", type=int, default=1 << 16, metavar="BYTES", help="0: no end [65536]")
    parser.add_argument("--door", choices=("sshd", "embedded"), default="sshd" if find_sshd() else "embedded")
    parser.add_argument("--policy", default=POLICY, help=f"[{POLICY}]")
    parser.add_argument("--epochs", type=int, default=60, help="of each of the two sites [60]")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which stays")
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    killed: Counter[str] = Counter()
    cuts = federations = 0
    begun, wanted, failed = time.monotonic(), "", 0
    with tempfile.TemporaryDirectory(prefix="split-kills-") as name:
        folder = options.keep or Path(name)
        while killed.total() < options.kills and not failed:
            federations += 1

            with Rooms(
                folder / f"run-{federations}", options.policy, 2, epochs=options.epochs, spec=SPEC, door=options.door,
                line=Line,
            ) as rooms:  # fmt: skip
                rooms.begin()
                wanted = wanted or rooms.unsplit()
                found = one(rooms, chance, options.kills - killed.total(), options.cut)
                complaint = wrong(rooms, wanted)
                assert rooms.line
                killed, cuts, failed = killed + found, cuts + rooms.line.cuts, failed + bool(complaint)
                said = ", ".join(f"{who} {number}" for who, number in sorted(found.items()))
                print(f"federation {federations}: {said}; {rooms.line.cuts} cuts; {complaint or 'the same bits'}")
                sys.stdout.flush()
    whom = ", ".join(f"{who} {number}" for who, number in sorted(killed.items()))
    seconds = time.monotonic() - begun
    print(f"{killed.total()} kills ({whom}), {cuts} cuts, {federations} federations, {seconds:.0f} s")
    print("NOT the same" if failed else f"each time the model {wanted[:16]}…, no step twice")
    return int(bool(failed))


def find_sshd() -> str | None:
    """OpenSSH's server, where it is."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


if __name__ == "__main__":
    sys.exit(main())

"""What a round under masks takes in the real rooms, beside the same round without: time, and bytes of a site.

    python -m tests.benchmarks.masked_rounds [--sites 10] [--megabytes 0.9] [--rounds 5] [--flower PYTHON]

Two federations one after the other, `fedavg` and `fedavg:seal=masks`, each with a real coordinator, judge, sshd door
and a Bob for each site; Alice is played: all sites publish an update of that size at once, so training takes no time.

    opened    the round is open, its release at all sites -> under masks, it is settled who masks with whom; else 0.
              That goes on while sites train, so it is no part of a round unless they train for a shorter time
    round     all updates lie before the Bobs -> the release with the result is at all sites
    up        bytes that a site's Bob has sent of a round, as its receipts tell
    history   bytes of the records of a round, each of which every site reads once

With `--flower`, a Python that has `flwr`, also its SecAgg+ with as many clients, which all mask with all others;
without a network and in one process, see `flower_secagg`.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import weights
from fedssh.alice import masking
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Received, read_offer
from fedssh.commands import print_table
from fedssh.manifest import Claim, new_id, now
from fedssh.rules.events import Local
from scripts.demo.federation import Federation, free_port
from scripts.demo.processes import Agent

EXAMPLES = 400
PAUSE = 0.02


class Stage(Federation):
    """A coordinator and sites without Alices.

    Args:
        names: The sites.
        policy: Of the federation.
        spec: Of the network.
    """

    def __init__(self, folder: Path, names: list[str], policy: str, spec: dict[str, Any], rounds: int) -> None:
        super().__init__(folder, free_port(), Path(sys.executable).parent, environ={"CUDA_VISIBLE_DEVICES": "-1"})
        self._looked_at: dict[str, tuple[int, Received | None]] = {}
        self.names, self.policy, self.spec, self.rounds = names, policy, spec, rounds
        self.masked = "seal=masks" in policy

    @property
    def address(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    def begin(self) -> None:
        """Make it, and start everybody."""
        random = np.random.default_rng(0)
        shape = self.spec["input"]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        data: dict[str, Any] = {}
        for split in ("train", "val"):
            data[f"{split}_images"] = random.integers(0, 256, (64, *shape[:2]), dtype=np.uint8)
            data[f"{split}_labels"] = random.integers(0, 2, (64, 1), dtype=np.uint8)
        np.savez(self.holdout, **data)
        self.command(
            "charity", "init", self.state, f"--data={self.holdout}", f"--architecture={json.dumps(self.spec)}",
            f"--policy={self.policy}", "--gate=off", f"--sessions={self.rounds}", f"--address={self.address}",
        )  # fmt: skip
        for name in self.names:
            self.enrol(name)
        if self.masked:
            self.name_peers(self.names)
        self.serve("--rescan=1")
        self._door()
        for name in self.names:
            folder = self.site(name)
            self._agent("bob", name, "bob", "watch", f"--state={folder / 'bob'}", f"--exchange={folder / 'exchange'}")

    def _door(self) -> Agent:
        return self._agent("door", None, "charity", "door", self.state, self.listen)

    def until(self, what: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not (found := what()):
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(str([agent.name for agent in self.agents]))
            time.sleep(PAUSE)
        return found

    def newest(self, name: str, number: int) -> Received | None:
        """The release that lies at a site, where a round is open in it, or none any more."""
        exchange = Exchange(self.site(name) / "exchange")
        sequence = exchange.newest_sequence() or 0
        if sequence != self._looked_at.get(name, (0, None))[0]:  # looking takes much longer than asking
            offered, private = read_offer(exchange.incoming), self.site(name) / "alice"
            private.mkdir(exist_ok=True)
            self._looked_at[name] = sequence, exchange.newest(offered, private) if offered else None
        received = self._looked_at.get(name, (0, None))[1]
        if received is None:
            return None
        current = received.standing.open_round
        over = received.standing.finished
        return received if over or (current is not None and current.number >= number) else None

    def happened(self, event: str) -> int:
        """How many such records there are."""
        return sum(record["event"] == event for record in self.records()) if self.ledger.exists() else 0


def measured(stage: Stage) -> list[dict[str, float]]:
    """The rounds of a federation, the first left out: it warms up."""
    found = []
    received = stage.until(partial(_all, stage, 1))
    random = np.random.default_rng(1)
    for number in range(1, stage.rounds + 1):
        start = time.monotonic()
        if stage.masked:
            stage.until(partial(_settled, stage, number))
        opened = time.monotonic() - start
        before = {name: _sent(stage, name) for name in stage.names}
        size = stage.ledger.stat().st_size
        ready = []
        for name in stage.names:
            at = received[name]
            model = weights.read_weights(at.model, at.header.tensors)
            update = {key: (one + random.normal(0, 1e-3, one.shape)).astype("f4") for key, one in model.items()}
            claim = Claim(
                id=new_id(), architecture=at.header.architecture, builds_on=at.release.sequence, session=number,
                epoch=1, examples=0 if stage.masked else EXAMPLES, metrics=None if stage.masked else Local(0.5, 0.5),
                started=now(), created=now(),
            )  # fmt: skip
            words = masking.words(at, update, EXAMPLES) if stage.masked else b""
            ready.append((Exchange(stage.site(name) / "exchange"), claim, update, words, at.header))
        start = time.monotonic()
        for exchange, claim, update, words, header in ready:
            if stage.masked:
                exchange.publish_words(claim, words, header)
            else:
                exchange.publish(claim, update, header.spec)
        received = stage.until(partial(_all, stage, number + 1))
        took = time.monotonic() - start
        time.sleep(0.5)  # receipts come a little later than the release
        after = {name: _sent(stage, name) for name in stage.names}
        up = statistics.mean(after[name] - before[name] for name in stage.names)
        found.append({"opened": opened, "round": took, "up": up, "history": stage.ledger.stat().st_size - size})
    return found[1:]


def _all(stage: Stage, number: int) -> dict[str, Received] | None:
    """What lies at all sites, once it is of that round or of the end."""
    found = {name: stage.newest(name, number) for name in stage.names}
    return None if None in found.values() else {name: one for name, one in found.items() if one is not None}


def _settled(stage: Stage, number: int) -> bool:
    return stage.happened("round-partners") >= number


def _sent(stage: Stage, name: str) -> int:
    path = stage.site(name) / "bob" / "receipts.jsonl"
    return sum(json.loads(line)["size"] for line in path.read_text().splitlines()) if path.exists() else 0


def flower(python: str, sites: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of Flower's rounds, the first of each left out."""
    script = Path(__file__).with_name("flower_secagg.py")
    words = [python, str(script), str(sites), str(count), str(rounds + 1)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} {script.name}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return {name: times[1:] for name, times in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=10, metavar="N", help="how many [10]")
    parser.add_argument("--megabytes", type=float, default=0.9, metavar="MB", help="size of the model [0.9]")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="beside the first, which warms up [5]")
    parser.add_argument("--flower", metavar="PYTHON", help="one that has flwr, to set its SecAgg+ beside it")
    options = parser.parse_args(arguments)
    width = round((options.megabytes * 1e6 / 4) / (28 * 28))
    spec = {"name": "mlp", "width": max(1, width), "depth": 1, "input": [28, 28, 1], "classes": 2}
    names = [f"alice-{number}" for number in range(1, options.sites + 1)]
    machine = f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), {platform.machine()}"
    print(f"{machine}, Python {platform.python_version()}, {now()[:10]}")
    rows, means = [], {}
    for policy in ("fedavg", "fedavg:seal=masks"):
        with (
            tempfile.TemporaryDirectory() as folder,
            Stage(Path(folder) / "stage", names, policy, spec, options.rounds + 1) as stage,
        ):
            stage.begin()
            found = measured(stage)
        middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
        least = min(one["round"] for one in found)
        means[policy] = middle
        plain = means["fedavg"]
        rows.append((
            policy, f"{middle['opened']:.2f} s", f"{middle['round']:.2f} s", f"{least:.2f} s", f"{middle['up']:,.0f}",
            f"{middle['history']:,.0f}", f"{middle['round'] / plain['round']:.2f}", f"{middle['up'] / plain['up']:.3f}",
        ))  # fmt: skip
    if options.flower:
        took = flower(options.flower, options.sites, round(options.megabytes * 1e6 / 4), options.rounds)
        for name, times in took.items():
            middle_of, ratio = statistics.median(times), statistics.median(times) / means["fedavg"]["round"]
            what = f"Flower {name}, no network"
            rows.append((what, "–", f"{middle_of:.2f} s", f"{min(times):.2f} s", "–", "–", f"{ratio:.2f}", "–"))
    print_table(("policy", "opened", "round", "quickest", "up", "history", "round / plain", "up / plain"), rows)
    print("medians of the rounds; up and history in bytes")


if __name__ == "__main__":
    main()

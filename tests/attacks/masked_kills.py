"""`kill -9` of the five processes of rounds under masks, at random moments: sums stay right, no site tells too much.

    python -m tests.attacks.masked_kills [--kills 200] [--seed 1] [--rounds 12]

Four sites train in short rounds whose updates are summed under masks. Meanwhile Alice, Bob, the door (its forced
command, the server of a connection, or all of it), `charity serve` and its judge are killed, one at a time and at
random moments, and started again as a service manager would. When the federation has ended before there were so many
kills, another one begins. At the end of each: the history is right by its own rules; each sum that came out is the mean
of what the sites in it have trained, as one trainer trains it without any room; of no site shares of both secrets were
told in one round.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedssh.rules.masking import mark
from tests.attacks.split_kills import PATIENCE, SPEC, WHO, Managed
from tests.harness.masks import MaskedRooms, furthest, mean_of

CLOSE = 1e-7
Records = Sequence[dict[str, Any]]


def one(rooms: MaskedRooms, chance: random.Random, most: int) -> Counter[str]:
    """A federation from its start to its end, in which at most so many are killed; who was."""
    managed = Managed(rooms, chance)
    managed.start()
    stuck, due = time.monotonic() + PATIENCE, time.monotonic() + chance.uniform(4, 8)
    order: list[str] = []
    while not rooms.over():
        managed.look_after()
        for event in rooms.heard(0.02):
            if str(event.fields.get("event")).startswith("round-"):
                stuck = time.monotonic() + PATIENCE
        now = time.monotonic()
        if now >= due and managed.killed.total() < most:
            order = order or chance.sample(WHO, len(WHO))  # each as often as the others
            managed.kill(order.pop())
            due = now + chance.uniform(0.2, 3)
        assert now < stuck, f"nothing went on for {PATIENCE:g} s, after {managed.killed}"
    return managed.killed


def wrong(rooms: MaskedRooms) -> str:
    """What is not as it must be; empty if all is."""
    records = rooms.records()
    rooms.command("charity", "verify", rooms.state)
    if found := [f"{record['site']}: {record['reason']}" for record in rooms.happened("invalid")]:
        return f"there is invalid in the history: {found[0]}"
    if both := told_both(records):
        return f"both secrets of {', '.join(both)} were told"
    sums = summed(records)
    trained = rooms.trained_each([(start, sessions) for _, start, sessions in sums])
    examples = {name: rooms.images_of(name) for name in rooms.names}
    for (record, _, sessions), update in zip(sums, trained, strict=True):
        if record["examples"] != sum(examples[name] for name in sessions):
            return f"record {record['sequence']} is of {record['examples']} images"
        away = furthest(rooms.tensors(record["model"]["sha256"]), mean_of(update, examples))
        if away > CLOSE:
            return f"the sum of record {record['sequence']} is {away:.3g} away from the mean"
    return ""


def told_both(records: Records) -> list[str]:
    """The sites of which shares of both secrets were told in one round."""
    marks: dict[str, dict[str, Any]] = {}
    told: dict[tuple[int, str], set[int]] = defaultdict(set)
    number = 0
    for record in records:
        if record["event"] == "round-opened":
            number, marks = record["round"], {}
        if shares := record.get("shares"):
            marks[record["site"]] = shares["marks"]
        if (answer := record.get("answer")) and "answer" not in record.get("late", ()):
            for site, share in answer["shares"].items():
                told[number, site].add(marks[site][record["site"]].index(mark(bytes.fromhex(share))))
    return [f"{site} in round {number}" for (number, site), kinds in told.items() if len(kinds) > 1]


def summed(records: Records) -> list[tuple[dict[str, Any], str, dict[str, int]]]:
    """Each sum that came out: its record, the model that its updates started from, and whose sessions are in it."""
    found, current = [], records[0]["model"]["sha256"]
    sessions: dict[str, int] = {}
    for record in records:
        if record["event"] == "round-opened":
            sessions = {}
        elif record["event"] == "counted":
            sessions[record["site"]] = record["session"]
        elif record["event"] == "round-accepted":
            found.append((record, current, {part["site"]: sessions[part["site"]] for part in record["updates"]}))
            current = record["model"]["sha256"]
    return found


def rooms_of(folder: Path, rounds: int) -> MaskedRooms:
    """Four sites with a small network."""
    return MaskedRooms(folder, "deadline=20,cap=64", sites=4, sessions=rounds, epochs=1, spec=SPEC)


def main(arguments: list[str] | None = None) -> int:
    """Kill, look, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12, help="of each federation [12]")
    options = parser.parse_args(arguments)
    chance, killed, failed = random.Random(options.seed), Counter[str](), False
    begun, federations, sums = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="masked-kills-") as folder:
        while killed.total() < options.kills and not failed:
            federations += 1
            with rooms_of(Path(folder) / f"run-{federations}", options.rounds) as rooms:
                rooms.begin()
                found = one(rooms, chance, options.kills - killed.total())
                complaint, out = wrong(rooms), len(summed(rooms.records()))
                killed, sums, failed = killed + found, sums + out, bool(complaint)
                said = ", ".join(f"{who} {number}" for who, number in sorted(found.items()))
                came = f"{out} of {options.rounds} rounds gave a sum"
                print(f"federation {federations}: {said}; {came}; {complaint or 'right'}")
                sys.stdout.flush()
    whom = ", ".join(f"{who} {number}" for who, number in sorted(killed.items()))
    print(f"{killed.total()} kills ({whom}), {federations} federations, {sums} sums, {time.monotonic() - begun:.0f} s")
    print("NOT right" if failed else f"each sum within {CLOSE:g} of the mean, never both secrets of a site")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

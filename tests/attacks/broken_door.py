"""What somebody who broke into the door can do to the coordinator with what he lays into the inbox.

    python tests/attacks/broken_door.py [--old CHECKOUT] [--limit SECONDS] [TRICK …]

Each trick in a process of its own: how long an honest site (alice-2) waits for her verdict, or what became of the
coordinator instead, and whether SIGTERM ends it; with the agents of this checkout and, with --old, of another.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.attacks.victim import ROOT, Victim, attack, say

LARGE = 16_000_000  # weights, so that hashing a bundle takes a moment


def sparse_file(victim: Victim) -> None:
    """a sparse file of 12 GiB, which takes no room"""
    with open(victim.arrive("alice-1"), "wb") as file:
        file.truncate(12 << 30)


def many_sparse_files(victim: Victim) -> None:
    """a hundred sparse files of 1 GiB, named as if they had come first"""
    for number in range(100):
        path = victim.folders.inbox / "alice-1" / f"{number:020}-00000000.bundle"
        with open(path, "wb") as file:
            file.truncate(1 << 30)


def truncated_file(victim: Victim) -> None:
    """a bundle that is truncated while it is hashed"""
    victim.submit("alice-1")
    [path] = (victim.folders.inbox / "alice-1").iterdir()
    handle = os.open(path, os.O_RDWR)  # the door keeps it

    def cut() -> None:
        while not (victim.folders.claimed / "alice-1" / path.name).exists():
            pass
        time.sleep(0.005)
        os.truncate(handle, 1 << 16)

    threading.Thread(target=cut, daemon=True).start()


def file_for_a_folder(victim: Victim) -> None:
    """a plain file where the folder of a new site belongs"""
    from fedssh.charity import enrol
    from fedssh.keys import make_key

    (victim.folders.inbox / "alice-3").write_bytes(b"")
    key = make_key(victim.folders.state / "key", "alice-3")
    try:
        enrol.add(victim.vault, "alice-3", key.path.with_suffix(".pub"), "site")
    except OSError as error:
        say(note=f"`nodes add` ended with {type(error).__name__}")


def linked_folder(victim: Victim) -> None:
    """a site's folder that is a link to another one with files of such names"""
    elsewhere = victim.folders.state / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{1:020}-00000000.bundle").write_bytes(b"somebody else's")
    (victim.folders.inbox / "alice-1").rmdir()
    (victim.folders.inbox / "alice-1").symlink_to(elsewhere)


def invented_sites(victim: Victim) -> None:
    """garbage of a thousand sites that were never enrolled"""
    for number in range(1000):
        victim.arrive(f"invented-{number}").write_bytes(b"garbage")


def early_names(victim: Victim) -> None:
    """two thousand bundles of garbage of one site, named as if they had come first"""
    for number in range(2000):
        path = victim.folders.inbox / "alice-1" / f"{number:020}-00000000.bundle"
        path.write_bytes(b"garbage %d" % number)


TRICKS: dict[str, tuple[Callable[[Victim], None], int]] = {
    "sparse": (sparse_file, 9),
    "sparse-many": (many_sparse_files, 9),
    "truncated": (truncated_file, LARGE),
    "file": (file_for_a_folder, 9),
    "link": (linked_folder, 9),
    "invented": (invented_sites, 9),
    "early": (early_names, 9),
}


def play(name: str, folder: Path) -> None:
    """One trick, in this process."""
    lay, weights = TRICKS[name]
    victim = Victim(folder, weights)
    for site in ("alice-1", "alice-2"):
        (victim.folders.inbox / site).mkdir(exist_ok=True)
    lay(victim)
    victim.serve("alice-2", victim.submit("alice-2"))
    judged = victim.vault.ledger.judged()
    invented = sum(record.fields["site"].startswith("invented") for record in judged)
    elsewhere = victim.folders.state / "elsewhere"
    note = f"{invented} records in invented names" if invented else None
    if elsewhere.exists() and not list(elsewhere.iterdir()):
        note = "a file outside the inbox was taken"
    say(**({"note": note} if note else {}))


def shown(said: dict[str, Any], ended: float | None, limit: float) -> str:
    """What became of it, in a few words."""
    note = f"; {said['note']}" if "note" in said else ""
    if "error" in said:
        return f"the coordinator ends: {said['error'][:60]}{note}"
    if "judged" in said:
        return f"judged after {said['judged']:.2f} s{note}"
    after = "SIGTERM without effect for 10 s" if said["killed"] else f"ends {ended or 0:.1f} s after SIGTERM"
    trouble = f" ({said['trouble'][:40]})" if "trouble" in said else ""
    return f"not judged in {limit:.0f} s{trouble}; {after}{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tricks", nargs="*", metavar="TRICK", help=f"of {', '.join(TRICKS)}; all of them if none is named"
    )
    parser.add_argument("--old", type=Path, metavar="CHECKOUT", help="another checkout to attack, too")
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="when to give up (60)")
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        play(options.tricks[0], options.folder)
        return
    trees = {"here": ROOT} | ({"other": options.old.resolve()} if options.old else {})
    for name in options.tricks or TRICKS:
        print(f"{name}: {TRICKS[name][0].__doc__}")
        for label, tree in trees.items():
            with tempfile.TemporaryDirectory() as folder:
                said, ended = attack(__file__, tree, Path(folder) / "x", [name], options.limit)
            print(f"    {label:8}{shown(said, ended, options.limit)}", flush=True)


if __name__ == "__main__":
    main()

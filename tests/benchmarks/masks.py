"""What a sum under masks takes, beside copying the same bytes and beside the same sum without masks.

    python -m tests.benchmarks.masks [--sites 3 10] [--megabytes 0.9 100] [--gone 1]

For each number of sites and size of a model:

    a site    keys, shares, masks and answer of one site
    sum       the coordinator adds the vectors of who came
    open      she takes the masks off
    plain     the same sum of float32 by NumPy, weighed
    copy      a vector's bytes once through memory
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from fedssh.commands import print_table
from fedssh.keys import make_key
from fedssh.masks import words
from fedssh.masks.site import MaskedRound
from fedssh.masks.total import opened
from fedssh.rules.masking import Roster, threshold


def measured(folder: Path, count: int, megabytes: float, gone: int) -> tuple[str, ...]:
    """A row."""
    names = [f"site-{number:03}" for number in range(count)]
    keys = {name: make_key(folder / name, name) for name in names}
    pinned = {name: key.public for name, key in keys.items()}
    vector = os.urandom(int(megabytes * 1e6) // 4 * 4)
    arrived = names[: count - gone]
    begun = {name: MaskedRound.begin("0" * 64, 1, name) for name in names}
    roster = Roster.of([begun[name].advert(keys[name]) for name in names])
    start = time.perf_counter()
    own = begun[names[0]].agree(roster, pinned)
    given = {names[0]: own.shares()}
    site, first = own.mask(vector, names)
    of_site = time.perf_counter() - start
    sites = {names[0]: site}
    total, summed = first, 0.0
    for name in names[1:]:
        sites[name] = begun[name].agree(roster, pinned)
        given[name] = sites[name].shares()
        if name in arrived:
            sites[name], one = sites[name].mask(vector, names)
            start = time.perf_counter()
            total = words.added(total, one)
            summed += time.perf_counter() - start
    start = time.perf_counter()
    answers = [sites[names[0]].answer(arrived, given, arrived)[1]]
    of_site += time.perf_counter() - start
    answers += [sites[name].answer(arrived, given, arrived)[1] for name in names[1 : threshold(count)]]
    start = time.perf_counter()
    found = opened(roster, names, arrived, total, given, answers)
    opening = time.perf_counter() - start
    words_of = np.frombuffer(vector, "<u4")
    assert (np.frombuffer(found.vector, "<u4") == words_of * np.uint32(len(arrived))).all()
    floats = np.ones(len(words_of), np.float32)
    start = time.perf_counter()
    mean = np.zeros(len(floats))
    for _ in arrived:
        mean += floats * (1 / len(arrived))
    plain = time.perf_counter() - start
    start = time.perf_counter()
    bytearray(vector)
    copy = time.perf_counter() - start
    times = [f"{one * 1e3:,.1f} ms" for one in (of_site, summed, opening, plain, copy)]
    return (
        str(count),
        str(gone),
        f"{megabytes:g} MB",
        *times,
        f"{of_site / copy:,.0f}",
        f"{(summed + opening) / plain:,.1f}",
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10], metavar="N", help="[3 10]")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.9, 100], metavar="MB", help="[0.9 100]")
    parser.add_argument("--gone", type=int, default=0, metavar="N", help="who gave shares and sends nothing [0]")
    options = parser.parse_args(arguments)
    rows = []
    for count in options.sites:
        for megabytes in options.megabytes:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(Path(folder), count, megabytes, options.gone))
    print(
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), {platform.machine()}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    print_table(
        ("sites", "gone", "model", "a site", "sum", "open", "plain", "copy", "site / copy", "(sum + open) / plain"),
        rows,
    )


if __name__ == "__main__":
    main()

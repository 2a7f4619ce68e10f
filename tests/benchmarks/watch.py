"""How long `fedssh watch` takes to read and check a long history, and what it takes then.

    python -m tests.benchmarks.watch [--records N]

The history is that of tests/attacks/long_history.py with every record signed, and is read from a file, so that neither
network nor ssh counts; without a screen, and with one that textual draws without a terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import tempfile
import threading
import time
from pathlib import Path

from fedssh.watch.file import File
from fedssh.watch.follow import Follower
from fedssh.watch.screen import WatchScreen
from fedssh.watch.trust import Trust
from tests.attacks import long_history


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.watch")
    parser.add_argument("--records", type=int, default=10_000, metavar="N")
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        long_history.build(Path(folder) / "state", records, signed=True)
        ledger = Path(folder) / "state/outbox/ledger.jsonl"
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for told, seconds in (("without a screen", alone(ledger)), ("with a screen", asyncio.run(drawn(ledger)))):
            print(f"{records:,} records read and checked in {seconds:.1f} s {told}: {records / seconds:,.0f} a second")
        print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB of memory")


def alone(ledger: Path) -> float:
    """Seconds until all is read and there is something to show."""
    follower = Follower(File(ledger), Trust(), None)
    begun = time.perf_counter()
    follower.catch_up()
    follower.value()
    seconds = time.perf_counter() - begun
    follower.close()
    return seconds


async def drawn(ledger: Path) -> float:
    """The same until it is drawn."""
    follower = Follower(File(ledger), Trust(), None)
    thread = threading.Thread(target=follower.run, daemon=True)
    app = WatchScreen(follower, str(ledger))
    async with app.run_test(size=(80, 24)) as pilot:
        begun = time.perf_counter()
        thread.start()
        while not follower.standing.caught_up:
            await asyncio.sleep(0.02)
        app.look()
        await pilot.pause()
        seconds = time.perf_counter() - begun
    follower.stop()
    thread.join()
    follower.close()
    return seconds


if __name__ == "__main__":
    main()

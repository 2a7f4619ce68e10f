"""The other side of `live`: draws a run's own history on the terminal, and what it is told at the foot.

    python -m scripts.demo.shown LEDGER FD

FD is a pipe with a JSON object per line: {"line": …} or {"bar": …}. It ends with the pipe, or when somebody leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections import deque
from pathlib import Path

from fedssh.errors import AgentError
from fedssh.keys import load_public
from fedssh.watch.file import File
from fedssh.watch.follow import Follower
from fedssh.watch.screen import WatchScreen
from fedssh.watch.trust import Trust


def main(ledger: Path, told: int) -> int:
    """Show it until the pipe ends or somebody leaves; returns the exit code."""
    key = ledger.with_name("coordinator_key.pub")
    follower = Follower(File(ledger), Trust(load_public(key), None, key.name), None)
    lines, bar = deque[str](maxlen=50), [""]
    over = threading.Event()
    app = WatchScreen(follower, "this run", notes=lambda: [*lines, *filter(None, bar)], over=over.is_set)

    reading = threading.Thread(target=follower.run, daemon=True)
    threading.Thread(target=hear, args=(told, lines, bar, over), daemon=True).start()
    reading.start()
    try:
        code = app.run() or 0
    finally:
        follower.stop()
        reading.join(5)
        follower.close()
    if isinstance(follower.error, AgentError):
        print(f"quickstart: error: {follower.error}", file=sys.stderr)
        return follower.error.exit_code
    return code


def hear(told: int, lines: deque[str], bar: list[str], over: threading.Event) -> None:
    """Take what the run says, until it ends; it may end in the middle of a line, which says nothing then."""
    try:
        with os.fdopen(told) as said, contextlib.suppress(ValueError):
            for line in said:
                fields = json.loads(line)
                if "bar" in fields:
                    bar[0] = fields["bar"]
                else:
                    lines.append(fields["line"])
    finally:
        over.set()  # or the screen would keep the terminal


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))

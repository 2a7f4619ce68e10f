"""What native code says on descriptor 2 while a library loads: kept out of the logs, shown after a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# A library whose native code speaks, and what then becomes of the process that loads it.
LIBRARY = """
import os
os.write(2, b"WARNING: All log messages before InitializeLog() are written to STDERR\\nI0000 an \\x80 operation is on")
{then}
"""
PROGRAM = """
import logging, os, sys
from fedssh.commands import log_events, tell
from fedssh.models.native import apart
logger = log_events("alice", "json", {debug})
tell(logger, "start", "before")
try:
    with apart():
        import loud
except ImportError as error:
    tell(logger, "error", str(error))
os.write(2, b"")
tell(logger, "end", "after")
"""
SAID = ["WARNING: All log messages before InitializeLog() are written to STDERR", "I0000 an \ufffd operation is on"]


def run(folder: Path, then: str, debug: bool = False, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    (folder / "loud.py").write_text(LIBRARY.format(then=then))
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    program = [*before, sys.executable, "-c", PROGRAM.format(debug=debug)]
    return subprocess.run(program, env=environ, capture_output=True, text=True, errors="replace", check=False)


def events(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    """Every line of its log, which must be JSON."""
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["agent"] for line in found} == {"alice"}
    return [(line["event"], line["text"]) for line in found]


def test_a_log_holds_its_own_lines_only(tmp_path: Path) -> None:
    assert events(run(tmp_path, "")) == [("start", "before"), ("end", "after")]


def test_the_debug_log_has_what_was_said(tmp_path: Path) -> None:
    native = [("native", line) for line in SAID]
    assert events(run(tmp_path, "", debug=True)) == [("start", "before"), *native, ("end", "after")]


def test_a_library_that_cannot_be_loaded_is_heard(tmp_path: Path) -> None:
    native = [("native", line) for line in SAID]
    assert events(run(tmp_path, "raise ImportError('not for this processor')")) == [
        ("start", "before"), *native, ("error", "not for this processor"), ("end", "after")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("then", "code", "told"),
    [
        ("os.abort()", -signal.SIGABRT, "Fatal Python error: Aborted"),
        ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, None),
        ("os._exit(3)", 3, None),
    ],
)
def test_a_crash_shows_what_was_said(tmp_path: Path, then: str, code: int, told: str | None) -> None:
    done = run(tmp_path, then)
    assert done.returncode == code
    first, *said = done.stderr.splitlines()
    assert json.loads(first)["text"] == "before"
    assert said[:2] == SAID
    assert said[2:3] == ([told] if told else [])
    assert told is None or "loud.py" in done.stderr


def test_the_first_process_of_a_container_shows_it_too(tmp_path: Path) -> None:
    """Nothing outlives it; whoever shall say something must do so before it is gone."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespaces for this user")
    for then in ("os.abort()", "import ctypes; ctypes.string_at(0)") * 3:
        said = run(tmp_path, then, before=apart).stderr.splitlines()
        assert said[1:3] == SAID
        assert said[3].startswith("Fatal Python error: ")


def test_of_much_the_end_is_shown(tmp_path: Path) -> None:
    done = run(tmp_path, "os.write(2, b'.' * 200_000 + b' the reason'); os.abort()")
    assert ". the reason\nFatal Python error" in done.stderr
    assert len(done.stderr) < 70_000


def test_with_descriptor_2_closed_a_library_loads(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("")
    program = "import os, sys; sys.path.insert(0, sys.argv[1]); os.close(2)\nfrom fedssh.models.native import apart\n"
    program += "with apart():\n    import loud\nprint('loaded')"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "loaded\n"

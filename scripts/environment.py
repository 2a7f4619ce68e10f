"""The checkout's own virtual environment, made from a lock file.

Standard library only: it runs before anything is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
BIN = FOLDER / "bin"
TAIL_LINES = 12


class InstallError(Exception):
    """The environment could not be made; the text has pip's last lines and names its log."""


def ensure(lock: str) -> Path:
    """Make or update `.venv` so that it holds what a lock file names and the checkout itself.

    Takes a blink when nothing changed since the last time. An environment made from `dev.txt`, which names
    everything, serves whoever asks for less.

    Args:
        lock: Name of a file in `locks/` without its ending.

    Returns:
        The folder of its programs.

    Raises:
        InstallError: Nothing is marked as done, so the next run tries again.
    """
    if any(_mark(name).exists() and _mark(name).read_text() == _state(name) for name in {lock, "dev"}):
        return BIN
    progress = _Progress(lock)
    if not _works():
        shutil.rmtree(FOLDER, ignore_errors=True)
        try:
            venv.create(FOLDER, with_pip=True, symlinks=True)
        except (subprocess.CalledProcessError, OSError) as error:
            said = getattr(error, "output", None) or b""
            lines = said.decode(errors="replace").splitlines()[-TAIL_LINES:] or [str(error)]
            raise InstallError("\n  ".join([f"{FOLDER.name}/ could not be made:", *lines])) from None
    pip = [str(BIN / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check", "install", "--no-deps"]
    pip.append("--progress-bar=off")
    log = FOLDER / f"install-{lock}.log"
    _run([*pip, "--require-hashes", "--requirement", str(_lock(lock))], log, progress)
    _run([*pip, "--no-build-isolation", "--editable", str(ROOT)], log, progress)
    progress.end()
    _mark(lock).write_text(_state(lock))
    return BIN


def run(name: str, main: Callable[[list[str]], int]) -> NoReturn:
    """Run one of the commands in scripts/ and exit: Ctrl-C and an environment that cannot be made end it quietly."""
    try:
        sys.exit(main(sys.argv[1:]))
    except InstallError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(command: Sequence[str], log: Path, progress: _Progress) -> None:
    """Run pip, its lines into a file."""
    with (
        log.open("a") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        try:
            assert process.stdout
            for line in process.stdout:
                file.write(line)
                file.flush()
                progress.show(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        progress.end()
        lines = log.read_text().splitlines()[-TAIL_LINES:]
        head = f"pip ended with code {process.returncode}; its last lines:"
        raise InstallError("\n  ".join([head, *lines, f"all: {log}"]))


class _Progress:
    """One line: what is installed and, where a person looks at a terminal, how far it is."""

    def __init__(self, lock: str) -> None:
        self._line = f"installing locks/{lock}.txt into {FOLDER.name}/ (once, a few minutes)"
        self._all = len(re.findall(r"^[\w.-]+==", _lock(lock).read_text(), re.MULTILINE))
        self._seen = 0
        self._refreshed = sys.stdout.isatty()
        print(self._line, end="" if self._refreshed else "\n", flush=True)

    def show(self, line: str) -> None:
        """Count the packages that pip speaks of; those of other machines are ignored, which is quickly done."""
        if not self._refreshed:
            return
        if line.startswith(("Collecting", "Ignoring")):
            self._seen += 1
            print(f"\r{self._line}: {self._seen} of {self._all}\033[K", end="", flush=True)
        elif line.startswith("Installing collected"):
            print(f"\r{self._line}: unpacking\033[K", end="", flush=True)

    def end(self) -> None:
        """Leave the line as it would stand in a file."""
        if self._refreshed:
            print(f"\r{self._line}\033[K", flush=True)


def _works() -> bool:
    """Whether `.venv` is an environment of this very interpreter version."""
    python = BIN / "python"
    question = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    if not python.exists():
        return False
    answer = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "{}.{}".format(*sys.version_info[:2])


def _lock(name: str) -> Path:
    return ROOT / "locks" / f"{name}.txt"


def _mark(lock: str) -> Path:
    return FOLDER / f"installed-{lock}"


def _state(lock: str) -> str:
    """What an installation depends on: the lock, the project's metadata, the place and the interpreter."""
    parts = [_lock(lock).read_bytes(), (ROOT / "pyproject.toml").read_bytes()]
    parts += [os.fsencode(ROOT), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()

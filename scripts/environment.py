"""The checkout's own virtual environment, made from a lock file.

Standard library only: it runs before anything is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
BIN = FOLDER / "bin"


def ensure(lock: str) -> Path:
    """Make or update `.venv` so that it holds what a lock file names and the checkout itself.

    Takes a blink when nothing changed since the last time. An environment made from `dev.txt`, which names
    everything, serves whoever asks for less.

    Args:
        lock: Name of a file in `locks/` without its ending.

    Returns:
        The folder of its programs.

    Raises:
        subprocess.CalledProcessError: pip has said why; nothing is marked as done, so the next run tries again.
    """
    if any(_mark(name).exists() and _mark(name).read_text() == _state(name) for name in {lock, "dev"}):
        return BIN
    print(f"installing locks/{lock}.txt into {FOLDER.name}/ (once, a few minutes)", flush=True)
    if not _works():
        shutil.rmtree(FOLDER, ignore_errors=True)
        venv.create(FOLDER, with_pip=True, symlinks=True)
    pip = [str(BIN / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--require-hashes", "--no-deps", "--requirement", str(ROOT / "locks" / f"{lock}.txt")], check=True
    )
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    _mark(lock).write_text(_state(lock))
    return BIN


def _works() -> bool:
    """Whether `.venv` is an environment of this very interpreter version."""
    python = BIN / "python"
    question = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    if not python.exists():
        return False
    answer = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "{}.{}".format(*sys.version_info[:2])


def _mark(lock: str) -> Path:
    return FOLDER / f"installed-{lock}"


def _state(lock: str) -> str:
    """What an installation depends on: the lock, the project's metadata, the place and the interpreter."""
    parts = [(ROOT / "locks" / f"{lock}.txt").read_bytes(), (ROOT / "pyproject.toml").read_bytes()]
    parts += [os.fsencode(ROOT), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()

"""The environment that scripts/ make: pip's words in a file, one line on the screen, and nothing installed for help."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import environment

# Answers what the script asks an interpreter, and what pip is asked with so many words that a screen is full of them.
PIP = """#!/bin/sh
case "$1" in -c) echo {version}; exit;; esac
echo "Collecting numpy==2"
echo "Ignoring colorama: markers 'sys_platform == \\"win32\\"' do not match your environment"
echo "Installing collected packages: numpy"
exit {code}
"""
LOCK = "numpy==2 \\\n    --hash=sha256:0\ncolorama==1 ; sys_platform == 'win32' \\\n    --hash=sha256:1\n"
LINE = "installing locks/all.txt into .venv/ (once, a few minutes)"


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout whose pip answers at once."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr(environment, "BIN", tmp_path / ".venv/bin")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/all.txt").write_text(LOCK)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    pip(tmp_path, 0)
    return tmp_path


def pip(folder: Path, code: int) -> None:
    program = folder / ".venv/bin/python"
    program.write_text(PIP.format(version="{}.{}".format(*sys.version_info[:2]), code=code))
    program.chmod(0o700)


def test_one_line_is_printed_and_pip_writes_into_a_file(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert environment.ensure("all") == checkout / ".venv/bin"
    assert capfd.readouterr() == (f"{LINE}\n", "")
    assert "Collecting numpy" in (checkout / ".venv/install-all.log").read_text()
    environment.ensure("all")
    assert capfd.readouterr() == ("", "")


def test_at_a_terminal_the_line_counts(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = pty.openpty()
    with os.fdopen(there, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        environment.ensure("all")
    shown = ""
    with contextlib.suppress(OSError):  # how a terminal ends on Linux
        while said := os.read(here, 1 << 16):
            shown += said.decode()
    os.close(here)
    assert shown.count("\n") == 1
    assert f"\r{LINE}: 2 of 2\033[K\r{LINE}: unpacking" in shown
    assert shown.endswith(f"\r{LINE}\033[K\r\n")


def test_when_pip_fails_its_last_lines_and_its_log_are_named(checkout: Path) -> None:
    pip(checkout, 3)
    with pytest.raises(environment.InstallError) as failed:
        environment.ensure("all")
    first, *lines = str(failed.value).splitlines()
    assert first == "pip ended with code 3; its last lines:"
    assert lines[-2:] == ["  Installing collected packages: numpy", f"  all: {checkout / '.venv/install-all.log'}"]
    pip(checkout, 0)
    environment.ensure("all")  # nothing was marked as done


@pytest.mark.parametrize(
    "words",
    [
        ("experiment", "--list"),
        *((script, "--help") for script in ("benchmark", "compare", "experiment", "quickstart", "test")),
    ],
)
def test_what_only_shows_something_installs_nothing(root: Path, tmp_path: Path, words: tuple[str, str]) -> None:
    """In a checkout without an environment, for a user with a strict umask and hardly any variables."""
    shutil.copytree(root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("agents", "experiments", "fedssh", "models", "tests"):
        (tmp_path / name).symlink_to(root / name)
    python = Path(sys.base_prefix) / "bin" / "python3"
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FEDSSH_PYTHON": str(python), "LANG": "C"}
    command = [str(tmp_path / "scripts" / words[0]), words[1]]
    done = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, check=False, umask=0o077)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    assert not (tmp_path / ".venv").exists()

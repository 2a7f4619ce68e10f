"""The environment that scripts/ make: pip's words in a file, one line on the screen, and nothing installed for help."""

from __future__ import annotations

import importlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
def environment(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module, for a checkout whose pip answers at once."""
    monkeypatch.syspath_prepend(str(root / "scripts"))
    module = importlib.import_module("environment")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FOLDER", tmp_path / ".venv")
    monkeypatch.setattr(module, "BIN", tmp_path / ".venv/bin")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/all.txt").write_text(LOCK)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    pip(tmp_path, 0)
    return module


def pip(folder: Path, code: int) -> None:
    program = folder / ".venv/bin/python"
    program.write_text(PIP.format(version="{}.{}".format(*sys.version_info[:2]), code=code))
    program.chmod(0o700)


def test_one_line_is_printed_and_pip_writes_into_a_file(
    environment: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert environment.ensure("all") == tmp_path / ".venv/bin"
    assert capfd.readouterr() == (f"{LINE}\n", "")
    assert "Collecting numpy" in (tmp_path / ".venv/install-all.log").read_text()
    environment.ensure("all")
    assert capfd.readouterr() == ("", "")


def test_at_a_terminal_the_line_counts(environment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = pty.openpty()
    with os.fdopen(there, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        environment.ensure("all")
        terminal.flush()
    shown = os.read(here, 1 << 16).decode()
    os.close(here)
    assert shown.count("\n") == 1
    assert f"\r{LINE}: 2 of 2\033[K\r{LINE}: unpacking" in shown
    assert shown.endswith(f"\r{LINE}\033[K\r\n")


def test_when_pip_fails_its_last_lines_and_its_log_are_named(environment: Any, tmp_path: Path) -> None:
    pip(tmp_path, 3)
    with pytest.raises(environment.InstallError) as failed:
        environment.ensure("all")
    first, *lines = str(failed.value).splitlines()
    assert first == "pip ended with code 3; its last lines:"
    assert lines[-2:] == ["  Installing collected packages: numpy", f"  all: {tmp_path / '.venv/install-all.log'}"]
    pip(tmp_path, 0)
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

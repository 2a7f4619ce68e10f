"""The walls between the rooms, as contracts of import-linter in pyproject.toml: they stand, and each one holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Contract -> a line that goes through the wall, and where somebody might write it.
THROUGH = {
    "agents": ("agents/bob/watch.py", "import fedssh.alice.memory"),
    "rules": ("agents/rules/gate.py", "import fedssh.files"),
    "history": ("agents/history/table.py", "import fedssh.ledger"),
    "watched": ("agents/watch/text.py", "import time"),
    "forced-command": ("agents/door/fetch.py", "import click"),
    "vault": ("agents/charity/settle.py", "import fedssh.models"),
    "judge": ("agents/charity/judge/combining.py", "import fedssh.keys"),
    "no-network": ("agents/alice/exchange.py", "import fedssh.transport"),
    "no-data": ("agents/door/admission.py", "import fedssh.models.score"),
    "models": ("models/score.py", "import fedssh.errors"),
    "experiments": ("agents/commands.py", "import experiments.machine"),
    "fleet": ("agents/commands.py", "import fleet.plan"),
    "fleet-shared": ("fleet/host.py", "import fedssh.keys"),
    "fleet-pure": ("fleet/plan.py", "import subprocess"),
    "layers": ("agents/errors.py", "import fedssh.settings"),
    "cycles": ("agents/history/verbs.py", "import fedssh.history.text"),
    "paramiko": ("agents/bob/shipping.py", "import paramiko"),
    "python-socks": ("agents/bob/way.py", "import python_socks"),
    "sqlite3": ("agents/charity/vault.py", "import sqlite3"),
    "asyncssh": ("agents/door/openssh.py", "import asyncssh"),
    "pyrage": ("agents/charity/intake.py", "import pyrage"),
    "linode": ("fleet/down.py", "import linode_api4"),
    "textual": ("agents/watch/command.py", "import textual"),
}


@pytest.fixture(scope="module")
def contracts(root: Path) -> dict[str, str]:
    """The contracts' names by their ids."""
    table = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return {contract["id"]: contract["name"] for contract in table}


def linted(checkout: Path) -> str:
    """What import-linter says of a checkout."""
    program = Path(sys.executable).with_name("lint-imports")
    environ = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200"}
    done = subprocess.run(
        [program, "--no-cache"], cwd=checkout, env=environ, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_the_walls_stand(root: Path, contracts: dict[str, str]) -> None:
    said = linted(root)
    assert f"Contracts: {len(contracts)} kept, 0 broken." in said, said


def test_every_wall_holds_where_somebody_goes_through(root: Path, tmp_path: Path, contracts: dict[str, str]) -> None:
    assert THROUGH.keys() == contracts.keys(), "a wall that nobody tries to go through may be none"
    for folder in ("agents", "models", "experiments", "fleet"):
        ignore = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(root / folder, tmp_path / folder, symlinks=True, ignore=ignore if folder == "agents" else None)
    (tmp_path / "fedssh").symlink_to("agents")
    shutil.copy(root / "pyproject.toml", tmp_path)
    for path, line in THROUGH.values():
        with (tmp_path / path).open("a") as file:
            file.write(f"\n\ndef somebody_in_a_hurry() -> None:\n    {line}\n")
    said = linted(tmp_path)
    broken = said.partition("Broken contracts")[2]
    for id, name in contracts.items():
        assert f"{name} BROKEN" in " ".join(said.split()), id
        _, heading, report = broken.partition(f"\n{name}\n")
        own = report.partition("\n\n\n\n")[0]
        path, line = THROUGH[id]
        if id != "cycles":  # it names a smallest set of imports to remove, which may be another one
            module = ".".join(Path(path).with_suffix("").parts)
            for folder, package in (("agents", "fedssh"), ("models", "fedssh.models")):
                module = package + module.removeprefix(folder) if module.split(".")[0] == folder else module
            assert heading and module in own, (id, own)
            assert line.removeprefix("import ").split(".")[0] in own, (id, own)

"""The reference is what the code makes, and has every command, variable and public module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fedssh
from scripts import reference
from scripts.pages import commands, interface


@pytest.mark.parametrize("name", [name for name in reference.PAGES if name != "formats.md"])  # test_formats.py
def test_the_page_is_what_the_code_makes(name: str) -> None:
    assert (reference.FOLDER / name).read_text() == reference.PAGES[name](), "run scripts/reference"


@pytest.mark.parametrize("program", commands.PROGRAMS)
def test_every_command_and_option_stands_there(program: str) -> None:
    page = (reference.FOLDER / f"{program}.md").read_text()
    found = list(commands.leaves(program))
    assert len(found) >= 2
    for words, command in found:
        text = page.partition(f"\n## {' '.join(words)}\n")[2].partition("\n## ")[0]
        flags = [flag for option in command.params for flag in option.opts if flag.startswith("--")]
        assert text and [flag for flag in flags if f"`{flag}" not in text] == []


def test_every_variable_stands_there(root: Path) -> None:
    page = (reference.FOLDER / "variables.md").read_text()
    texts = [
        path.read_text()
        for top in ("agents", "models", "scripts", "experiments")
        for path in (root / top).rglob("*.py")
    ]
    texts += [path.read_text() for path in (*root.glob("docker-compose*.yml"), root / "scripts/python")]
    used = set(re.findall(r"\bFEDSSH_[A-Z]+\b", "\n".join(texts)))
    assert len(used) > 8 and [name for name in used if f"`{name}`" not in page] == []
    assert "`BOB_WAIT` | watch |" in page and "`CHARITY_SESSIONS` | init |" in page


def test_every_public_module_stands_there() -> None:
    assert {"__version__", *interface.MODULES} == set(fedssh.__all__)
    assert "### site.run\n" in (reference.FOLDER / "python.md").read_text()

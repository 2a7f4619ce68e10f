"""docs/explanation/map.md: every wall and every room of the code stands there; what it names is where it says."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/explanation/map.md").read_text()


def test_every_wall_stands_there_with_its_exceptions(root: Path, page: str) -> None:
    table = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lines = dict(re.findall(r"^- \*\*([\w-]+)\*\*: (.+)$", page, re.MULTILINE))
    assert list(lines) == [contract["id"] for contract in table]
    for contract in table:
        line = lines[contract["id"]]
        name, _, exceptions = line.partition(" (but ")
        assert name == contract["name"]
        if contract["type"] != "layers":  # which repeats one
            assert re.findall(r"`((?:fedssh|fleet)[^`]+ -> [^`]+)`", exceptions) == contract.get("ignore_imports", [])


def test_every_module_is_in_a_room(root: Path, page: str) -> None:
    linked = re.findall(r"^\| \[([\w/]+)\]\(\.\./\.\./([\w/]+)\)", page, re.MULTILINE)
    rooms = {root / name for name, target in linked if name == target}
    shared = set(re.findall(r"`(\w+)`", page.partition("**Shared**")[2].partition("Beside them")[0]))
    found = [path for top in ("agents", "models", "experiments", "fleet") for path in (root / top).rglob("*.py")]
    assert len(rooms) > 10 and len(found) > 150
    for path in found:
        if path.parent == root / "agents":
            assert path.stem in shared | {"__init__"}, path
        else:
            assert rooms & set(path.parents), path
    assert all((root / "agents" / f"{name}.py").is_file() for name in shared)


def test_the_way_of_a_checkpoint_leads_through_what_there_is(root: Path, page: str) -> None:
    way = page.partition("## The way of a checkpoint")[2]
    steps = re.findall(r"\[`([\w.]+)`\]\(\.\./\.\./([\w/]+\.py)\)", way)
    assert len(steps) > 25 and len(steps) == way.count("](")
    for name, file in steps:
        assert defined(ast.parse((root / file).read_text()), name.split(".")), f"{name} is not in {file}"


def test_links_lead_somewhere(root: Path, page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page)
    assert [target for target in targets if not (root / "docs/explanation" / target).exists()] == []


def defined(tree: Any, names: list[str]) -> bool:
    """Whether a function or a class of these names, one in the other, is defined in a module."""
    inner = [one for one in tree.body if getattr(one, "name", None) == names[0]]
    return bool(inner) and (len(names) == 1 or any(defined(one, names[1:]) for one in inner))

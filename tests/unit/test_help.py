"""Every command's help: fits a screen, ends with an example, loads no Keras, comes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.harness.archives import unpack

HEAVY = ("keras", "tensorflow", "numpy", "sklearn", "paramiko", "asyncssh", "pyrage", "rich")
# Prints {"words of the command": help} for an agent, and what was loaded to do so.
PROBE = """
import importlib, json, sys
import click
agent = sys.argv[1]
cli = importlib.import_module(f"fedssh.{agent}.cli")
group = next(value for value in vars(cli).values() if isinstance(value, click.Group))
pages = {}
def visit(command, words, parent):
    settings = {**command.context_settings, "terminal_width": 100}
    context = click.Context(command, info_name=words[-1], parent=parent, **settings)
    pages[" ".join(words)] = command.get_help(context)
    for name in getattr(command, "commands", {}):
        visit(command.commands[name], [*words, name], context)
visit(group, [agent], None)
print(json.dumps({"pages": pages, "loaded": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@cache
def probe(agent: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROBE, agent], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("agent", ["alice", "bob", "charity"])
def test_help_loads_nothing_heavy(agent: str) -> None:
    loaded = probe(agent)["loaded"]
    assert isinstance(loaded, list)
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("agent", ["alice", "bob", "charity"])
def test_help_fits_a_screen_and_ends_with_an_example(agent: str) -> None:
    pages = probe(agent)["pages"]
    assert isinstance(pages, dict)
    assert len(pages) > 1
    for words, page in pages.items():
        lines = page.rstrip().splitlines()
        # What a federation agrees on, and what a site allows, is a page: every term with what it means.
        # A line for each of a coordinator's commands is more than others have, too.
        most = {"charity init": 72, "alice train": 72, "charity": 46}.get(words, 40)
        assert len(lines) <= most, f"{words} --help has {len(lines)} lines"
        assert "example" in page.lower(), f"{words} --help shows no example"
        last = page.lower().rfind("example")
        assert last > page.lower().rfind("options:"), f"{words} --help does not end with its example"


EXPECTED = {
    "alice": {"train"},
    "bob": {"watch", "keygen", "join", "status"},
    "charity": {"init", "serve", "door", "nodes", "history", "show", "diff"}
    | {"best", "verify", "export", "rollback", "status"},
}


@pytest.mark.parametrize("agent", sorted(EXPECTED))
def test_the_commands_of_the_design_are_there(agent: str) -> None:
    pages = probe(agent)["pages"]
    assert isinstance(pages, dict)
    assert {f"{agent} {name}" for name in EXPECTED[agent]} <= set(pages)


FOLLOW = """
import sys
sys.modules |= dict.fromkeys(("numpy", "scipy", "keras", "tensorflow", "sklearn"))  # none of them can be imported
import fedssh.bob.watch
from pathlib import Path
from fedssh.verify import check_export
for history in sorted(Path().glob("*/coordinator/outbox/ledger.jsonl")):
    print(history.parts[0], check_export(history, None)["records"] > 5)
"""


def test_a_history_of_any_policy_is_followed_where_there_is_no_numpy(root: Path, tmp_path: Path) -> None:
    """Bob's installation has none."""
    names = sorted(path.name.removesuffix(".tar.gz") for path in (root / "tests/vectors/histories").glob("*.tar.gz"))
    names.remove("keys")
    names.remove("fedavg")  # its round was extended by a clock that ran ahead of the records' times
    for name in names:
        archive = root / f"tests/vectors/histories/{name}.tar.gz"
        unpack(archive, tmp_path / name, "coordinator/outbox/ledger.jsonl")
    done = subprocess.run([sys.executable, "-c", FOLLOW], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} True" for name in names] and len(names) == 20

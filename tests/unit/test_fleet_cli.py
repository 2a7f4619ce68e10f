"""The command line of scripts/deploy: help that costs nothing, exit codes, JSON, and errors of one line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedssh.commands import entry
from fleet import cli, plan
from fleet.cli import group
from fleet.fleet import Fleet, Options
from fleet.inventory import read
from fleet.pins import born_with
from tests.unit.test_fleet_compose import reason
from tests.unit.test_help import HEAVY

VERBS = ("plan", "up", "status", "logs", "ssh", "upgrade", "rollback", "backup", "restore", "cost", "down")
OF_A_HOST = {"logs": ["coordinator"], "ssh": ["coordinator"], "restore": ["coordinator", "x.age", "--identity=id"]}
PROBE = """
import json, sys
import click
from fleet.cli import group
context = click.Context(group, info_name="deploy", terminal_width=100)
pages = {}
for name in group.list_commands(context):
    pages[name] = group.commands[name].get_help(click.Context(group.commands[name], parent=context, info_name=name))
loaded = sorted({name if name.startswith("fleet") else name.split(".")[0] for name in sys.modules})
print(json.dumps({"pages": {"": group.get_help(context), **pages}, "loaded": loaded}))
"""
DIGEST = "0" * 64
HOST_KEY = born_with()[1]
INVENTORY = f"""
federation = "chest-xrays"
[coordinator]
host = "root@192.0.2.1"
host_key = "{HOST_KEY}"
data = "xrays.npz"
[images]
charity = "registry.example/charity@sha256:{DIGEST}"
door = "registry.example/door@sha256:{DIGEST}"
"""
CLOUD = INVENTORY.replace("root@192.0.2.1", "linode:us-east/g6-standard-1") + (
    '[linode]\nssh_key = "me.pub"\nadmin_from = ["198.51.100.4/32"]\n'
)


@cache
def probe() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-P", "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_all_verbs_are_there_in_the_order_of_use() -> None:
    assert tuple(probe()["pages"]) == ("", *VERBS)


def test_help_loads_nothing_heavy() -> None:
    assert not {*HEAVY, "linode_api4", "requests", "fleet.linode", "fleet.keep", "fleet.up"} & set(probe()["loaded"])


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_a_screen_and_ends_with_an_example(verb: str) -> None:
    page = probe()["pages"][verb]
    assert len(page.splitlines()) <= 40 and all(len(line) <= 110 for line in page.splitlines())
    assert page.rfind("Example:") > page.rfind("Options:") > 0
    assert f"scripts/deploy {verb}" in page[page.rfind("Example:") :]
    assert verb == "" or "--json" in page


class Deploy:
    """Calls the command in a folder with an inventory; in this process, most of whose time would go into starting."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        for name in ("LINODE_TOKEN", "LINODE_API"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(folder)
        (folder / "xrays.npz").write_bytes(b"x")
        (folder / "me.pub").write_text(f"{HOST_KEY} me\n")
        for name in ("x.age", "id"):
            (folder / name).touch()

    def __call__(self, verb: str, *words: str, inventory: str | None = INVENTORY) -> subprocess.CompletedProcess[str]:
        if inventory is not None:
            (self.folder / "fleet.toml").write_text(inventory)
        command = ["deploy", verb, "fleet.toml", *OF_A_HOST.get(verb, ()), *words]
        self._monkeypatch.setattr(sys, "argv", command)
        code: Any = 0
        try:
            entry(group, "deploy")
        except SystemExit as end:
            code = end.code
        said = self._capsys.readouterr()
        return subprocess.CompletedProcess(command, code, said.out, said.err)

    def refused(self, verb: str, *words: str, inventory: str | None = INVENTORY, code: int = 2) -> str:
        """The error of a command that ends with one, and its hint; never a traceback."""
        done = self(verb, *words, inventory=inventory)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        lines = [line for line in done.stderr.splitlines() if re.match("deploy: (error|hint): ", line)]
        assert lines and lines[0].startswith("deploy: error: ") and "Traceback" not in done.stderr
        return "\n".join(lines)


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Deploy:
    return Deploy(tmp_path, monkeypatch, capsys)


def test_it_is_a_program(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-P", "-m", "fleet.cli", "plan", "fleet.toml"]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "deploy: error: fleet.toml does not exist",
        "deploy: hint: docs/how-to/virtual-machines.md has one to begin with",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_an_inventory_that_is_missing_or_wrong(deploy: Deploy, verb: str) -> None:
    assert "fleet.toml does not exist" in deploy.refused(verb, "--json", inventory=None)
    said = deploy.refused(verb, "--json", inventory=INVENTORY.replace("federation", "federaton"))
    assert "fleet.toml: federaton is not known; did you mean 'federation'?" in said


def test_a_folder_in_place_of_the_inventory(deploy: Deploy) -> None:
    (deploy.folder / "fleet.toml").mkdir()
    assert "cannot be read: Is a directory" in deploy.refused("plan", inventory=None)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in OF_A_HOST and verb not in ("cost", "backup")])
def test_a_host_that_is_not_in_it(deploy: Deploy, verb: str) -> None:
    said = deploy.refused(verb, "--only=coordinater", "--json", *(["--yes"] if verb in ("rollback", "down") else []))
    assert "fleet.toml has no host 'coordinater'; did you mean 'coordinator'?" in said


@pytest.mark.parametrize("verb", ["plan", "up", "status", "upgrade", "cost", "down", "logs", "ssh"])
def test_no_token(deploy: Deploy, verb: str) -> None:
    yes = ["--yes"] if verb == "down" else []
    assert "LINODE_TOKEN" in deploy.refused(verb, "--json", *yes, inventory=CLOUD)


def test_nobody_is_there_to_confirm(deploy: Deploy) -> None:
    for verb in ("rollback", "restore", "down"):
        said = deploy.refused(verb)
        assert "nobody is here to confirm it" in said and "hint: give --yes" in said


def test_a_backup_for_nobody(deploy: Deploy) -> None:
    assert "nobody is named who may open a backup" in deploy.refused("backup")


def test_a_word_that_is_none(deploy: Deploy) -> None:
    assert "no such option" in deploy.refused("plan", "--onyl=x").lower()
    assert "--ship" in deploy.refused("up", "--ship=pigeon")


def test_the_command_line_of_a_login(deploy: Deploy) -> None:
    done = deploy("ssh", "--json", "--", "uptime", "-p")
    command = json.loads(done.stdout)["command"]
    assert done.returncode == 0 and command[0] == "ssh" and command[-4:] == ["root@192.0.2.1", "--", "uptime", "-p"]
    assert "-oStrictHostKeyChecking=yes" in command
    assert f"chest-xrays-coordinator {HOST_KEY}" in (deploy.folder / "chest-xrays.fleet/known_hosts").read_text()


# A machine that answers what it is told to

ANSWERS = """\
#!/bin/sh
case "$*" in *ControlMaster=yes*) echo ready; exec cat > /dev/null ;; esac
cat FOLDER/said
"""


@pytest.fixture
def machine(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stands what the machine says; it is bare."""
    (deploy.folder / "bin").mkdir()
    program = deploy.folder / "bin" / "ssh"
    program.write_text(ANSWERS.replace("FOLDER", str(deploy.folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (deploy.folder / "said").write_text(BARE)
    return deploy.folder / "said"


BARE = "arch x86_64\nmemory 2000000000\ndisk 20000000000\n"
NEEDS_COMPOSE = pytest.mark.skipif(reason() is not None, reason=reason() or "")


def wish(deploy: Deploy) -> plan.Wish:
    with Fleet(read(deploy.folder / "fleet.toml"), Options(), print) as fleet:
        return fleet.wish(fleet.chosen[0])


@NEEDS_COMPOSE
def test_a_plan_ends_with_10_where_something_is_to_be_done_and_with_0_where_nothing(
    deploy: Deploy, machine: Path
) -> None:
    todo = deploy("plan", "--json")
    found = json.loads(todo.stdout)
    assert todo.returncode == 10 and found["federation"] == "chest-xrays" and found["prices"] == []
    assert [step["name"] for step in found["steps"]] == ["prepare", "data", "images", "release", "begin", "start"]
    assert deploy("plan", "--json").stdout == todo.stdout
    table = deploy("plan")
    assert table.returncode == 10 and table.stdout.splitlines()[0].split() == ["HOST", "STEP", "BY", "WHAT"]
    wanted = wish(deploy)
    facts = [
        BARE, f"engine 26\ncompose 2\nprepared {wanted.prepared}\nrelease 1\nrendered {wanted.rendered}\n",
        f"data {wanted.data}\nbegun yes\n", *(f"image {image}\n" for image in wanted.images),
        *(f"container {room} running 0 0 false now x\n" for room in ("charity", "door")),
    ]  # fmt: skip
    machine.write_text("".join(facts))
    done = deploy("plan", "--json")
    assert (done.returncode, json.loads(done.stdout)["steps"]) == (0, [])
    machine.write_text("".join(facts).replace(wanted.rendered, "0" * 64))
    other = deploy("plan", "--json")
    assert other.returncode == 10 and [step["verb"] for step in json.loads(other.stdout)["steps"]] == ["upgrade"]


@NEEDS_COMPOSE
def test_who_is_enrolled_beside_the_hosts_is_in_the_plan(deploy: Deploy, machine: Path) -> None:
    others = INVENTORY + '[auditors]\nme = "me.pub"\n[sites.theirs]\nkey = "me.pub"\n'

    def enrolled(*words: str) -> list[str]:
        steps = json.loads(deploy("plan", "--json", *words, inventory=others).stdout)["steps"]
        return [step["text"].split()[1] for step in steps if step["name"] == "enrol"]

    assert enrolled() == enrolled("--only=coordinator") == ["me", "theirs"]
    (deploy.folder / "chest-xrays.fleet/invitations/me.json").write_text("{}")
    assert enrolled() == ["theirs"]


@NEEDS_COMPOSE
def test_a_plan_that_does_not_fit(deploy: Deploy, machine: Path) -> None:
    machine.write_text(BARE.replace("2000000000", "1000000000"))
    said = deploy.refused("plan", "--json")
    assert "coordinator: 1.00 GB of memory" in said and "hint: --force tries it all the same" in said
    forced = deploy("plan", "--json", "--force")
    assert forced.returncode == 10 and "1.00 GB of memory" in json.loads(forced.stdout)["misfits"][0]


@pytest.mark.parametrize("said", ["memory much\n", "container\n", "time " + "9" * 5000 + "\n"])
def test_a_machine_that_says_nonsense_is_not_trusted(deploy: Deploy, machine: Path, said: str) -> None:
    machine.write_text(said)
    assert "describes itself in words that are none" in deploy.refused("plan", "--json", code=3)


def test_the_status_of_a_bare_machine_and_of_one_that_cannot_be_reached(deploy: Deploy, machine: Path) -> None:
    done = deploy("status", "--json")
    (host,) = json.loads(done.stdout)["hosts"]
    assert done.returncode == 1 and (host["host"], host["state"]) == ("coordinator", "not installed")
    away = "echo 'ssh: connect to host 192.0.2.1 port 22: Connection refused' >&2\nexit 255\n"
    (deploy.folder / "bin" / "ssh").write_text(f"#!/bin/sh\n{away}")
    done = deploy("status", "--json")
    (host,) = json.loads(done.stdout)["hosts"]
    assert done.returncode == 1 and host["state"] == "error" and "Connection refused" in host["error"]
    assert "Connection refused" in deploy.refused("plan", code=4)


def test_a_coordinator_that_answers_nonsense_is_told_of_in_one_line(deploy: Deploy, machine: Path) -> None:
    machine.write_text(f"{BARE}release 1\ncontainer charity running 0 0 false now x\n")
    done = deploy("status", "--json")  # to which the same answer is no JSON
    (host,) = json.loads(done.stdout)["hosts"]
    assert done.returncode == 1 and host["state"] == "error" and "Traceback" not in done.stderr
    assert host["error"].startswith("coordinator: its rooms answer no JSON of theirs: ")


def test_the_wish_changes_with_what_is_wanted(deploy: Deploy, tmp_path: Path) -> None:
    if why := reason():
        pytest.skip(why)
    (tmp_path / "fleet.toml").write_text(INVENTORY)
    first = wish(deploy)
    (tmp_path / "xrays.npz").write_bytes(b"other")
    second = wish(deploy)
    assert dataclasses.replace(second, data=first.data) == first and second.data != first.data


def test_the_token_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `ssh` and `docker`, which get this environment, do not get it."""
    cli._token.cache_clear()
    monkeypatch.setenv("LINODE_TOKEN", "secret")
    assert cli._token() == "secret" == cli._token()
    assert "LINODE_TOKEN" not in os.environ
    assert "secret" not in repr(Options(token="secret"))
    cli._token.cache_clear()

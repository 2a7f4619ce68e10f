"""The story in containers: build, start, read the history over SSH, look at the walls of the rooms, take it down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

pytestmark = pytest.mark.docker

PROJECT = "fedssh-test"
STATE = "/coordinator"
PORT = "22022"
ROOMS = ("alice-1", "alice-2", "alice-3", "bob-1", "bob-2", "bob-3", "charity", "door")
Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compose(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """`docker compose` on a running federation of our own; removed with its volumes afterwards."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh client")
    source = os.environ.get("FEDSSH_DATA") or str(tmp_path_factory.mktemp("data"))
    dataset = "pneumoniamnist" if Path(source, "pneumoniamnist.npz").exists() else "digits"
    environ = {
        **os.environ, "FEDSSH_DATA": source, "FEDSSH_DATASET": dataset, "FEDSSH_PORT": PORT,
        "FEDSSH_SESSIONS": "1", "FEDSSH_EPOCHS": "3",
        "BUILDKIT_PROGRESS": "plain", "COMPOSE_PROJECT_NAME": PROJECT,
    }  # fmt: skip

    def run(*words: str, check: bool = True, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", *words]
        done = subprocess.run(
            command, cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=timeout
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    run("down", "--volumes", "--remove-orphans")
    try:
        run("build")
        run("up", "--detach", timeout=300)
        yield run
    finally:
        run("down", "--volumes", "--remove-orphans", check=False)


@pytest.fixture(scope="module")
def ssh(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Stock ssh with the auditor's key and the pinned host key that the set-up made."""
    keys = tmp_path_factory.mktemp("keys")
    compose("cp", "setup:/keys/.", str(keys))

    def run(*words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        options = [f"-oUserKnownHostsFile={keys / 'known_hosts'}", "-oBatchMode=yes", "-oIdentitiesOnly=yes"]
        command = ["ssh", "-F/dev/null", "-p", PORT, "-i", str(keys / "auditor"), *options, "charity@localhost", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def history(compose: Compose, ssh: Compose) -> list[dict[str, Any]]:
    """The records, once a model has been accepted and every site's session is over."""
    end = time.monotonic() + 300
    while True:
        lines = ssh("history", "--export").stdout.splitlines()
        records = [json.loads(json.loads(line)["record"]) for line in lines]
        events = [record["event"] for record in records]
        if "accepted" in events and events.count("report") >= 3:
            return records
        assert time.monotonic() < end, f"{events}\n{compose('logs', '--tail=20').stdout}"
        time.sleep(1)


def inspect(compose: Compose, service: str) -> dict[str, Any]:
    """What the engine itself says of a service's container."""
    container = compose("ps", "--all", "--quiet", service).stdout.split()[0]
    found: dict[str, Any] = docker.from_env().containers.get(container).attrs
    return found


def test_history_has_accepted_models_from_three_sites(history: list[dict[str, Any]]) -> None:
    assert history[0]["event"] == "genesis"
    sites = {record["site"] for record in history if record["event"] == "report"}
    assert sites == {"alice-1", "alice-2", "alice-3"}


@pytest.mark.parametrize("verb", ["history", "show 1", "diff 1", "best", "nodes", "status", "verify", "help"])
def test_every_verb_answers_over_ssh(history: list[dict[str, Any]], ssh: Compose, verb: str) -> None:
    words = verb.split()
    if words[0] == "diff":
        words.append(str(next(record["sequence"] for record in history if record["event"] == "accepted")))
    assert ssh(*words).stdout.strip()
    json.loads(ssh(*words, "--json").stdout)


def test_nothing_else_is_served(history: list[dict[str, Any]], ssh: Compose) -> None:
    assert ssh("cat /coordinator/outbox/sites.json", check=False).returncode == 2
    assert ssh(check=False).returncode != 0


@pytest.mark.parametrize("service", [*ROOMS, "setup"])
def test_every_room_has_its_walls(history: list[dict[str, Any]], compose: Compose, service: str) -> None:
    found = inspect(compose, service)
    host = found["HostConfig"]
    assert found["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert not host["Privileged"]


@pytest.mark.parametrize("service", ["alice-1", "alice-2", "alice-3", "charity"])
def test_the_rooms_that_see_data_have_no_network(history: list[dict[str, Any]], compose: Compose, service: str) -> None:
    assert inspect(compose, service)["HostConfig"]["NetworkMode"] == "none"


def test_bob_reaches_only_the_door(history: list[dict[str, Any]], compose: Compose) -> None:
    (network,) = inspect(compose, "bob-1")["NetworkSettings"]["Networks"]
    assert docker.from_env().networks.get(network).attrs["Internal"]


@pytest.mark.parametrize(
    ("service", "sees"),
    [
        ("alice-1", {"/data": False, "/exchange": True, "/state": True}),
        ("bob-1", {"/exchange": True, "/state": True}),
        ("door", {f"{STATE}/inbox": True, f"{STATE}/outbox": False, f"{STATE}/door": True}),
        ("charity", {f"{STATE}/vault": True, f"{STATE}/inbox": True, f"{STATE}/outbox": True, "/data": False}),
    ],
)
def test_each_room_sees_only_its_folders(
    history: list[dict[str, Any]], compose: Compose, service: str, sees: dict[str, bool]
) -> None:
    mounts = inspect(compose, service)["Mounts"]
    assert {mount["Destination"]: mount["RW"] for mount in mounts if mount["Type"] != "tmpfs"} == sees


def test_bob_has_no_tensorflow(history: list[dict[str, Any]], compose: Compose) -> None:
    question = ["exec", "--no-TTY", "bob-1", "python", "-c", "import tensorflow"]
    done = compose(*question, check=False)
    assert "No module named 'tensorflow'" in done.stderr


def test_no_room_was_killed_for_memory(history: list[dict[str, Any]], compose: Compose) -> None:
    for service in ROOMS:
        found = inspect(compose, service)
        assert not found["State"]["OOMKilled"], service
        assert found["RestartCount"] == 0, service

"""The story in containers: build, start, lose a site in a round, gain one, look at the walls, take it down."""

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

from fedssh.history.report import page
from scripts.demo.federation import free_port

pytestmark = pytest.mark.docker

PROJECT = f"fedssh-test-{os.getpid()}"
STATE = "/coordinator"
ROOMS = ("alice-1", "alice-2", "alice-3", "bob-1", "bob-2", "bob-3", "charity", "door")
FIRST = ("charity", "door", "alice-1", "bob-1", "alice-2", "bob-2")
# One update suffices at the deadline; rounds without end, until they are finished by hand.
ROUNDS = {"FEDSSH_POLICY": "fedavg:minimum=0.3,deadline=15", "FEDSSH_SESSIONS": "1000", "FEDSSH_EPOCHS": "1"}
SPLIT = {"FEDSSH_POLICY": "split", "FEDSSH_SESSIONS": "1", "FEDSSH_EPOCHS": "1"}
Records = list[dict[str, Any]]
Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of docker-compose.yml; a test may change them before it begins anew."""
    port = str(free_port())
    source = os.environ.get("FEDSSH_DATA") or str(tmp_path_factory.mktemp("data"))
    dataset = "pneumoniamnist" if Path(source, "pneumoniamnist.npz").exists() else "digits"
    return {
        **os.environ, **ROUNDS, "FEDSSH_DATA": source, "FEDSSH_DATASET": dataset, "FEDSSH_PORT": port,
        "BUILDKIT_PROGRESS": "plain", "COMPOSE_PROJECT_NAME": PROJECT,
    }  # fmt: skip


@pytest.fixture(scope="module")
def compose(root: Path, environ: dict[str, str]) -> Iterator[Compose]:
    """`docker compose` on a federation of our own, at first with two sites up; removed with its volumes afterwards."""
    if shutil.which("ssh") is None:
        pytest.skip("no ssh client")

    def run(*words: str, check: bool = True, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", *words]
        done = subprocess.run(
            command, cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            logs = run("logs", "--tail=20", check=False).stdout
            pytest.fail(f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}\n{logs}")
        return done

    run("down", "--volumes", "--remove-orphans")
    try:
        run("build")
        run("up", "--detach", *FIRST, timeout=300)
        yield run
    finally:
        run("down", "--volumes", "--remove-orphans", check=False)


@pytest.fixture(scope="module")
def ssh(compose: Compose, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Stock ssh with the auditor's key and the pinned host key that the set-up made."""
    keys = tmp_path_factory.mktemp("keys")
    compose("cp", "setup:/keys/.", str(keys))
    return door(keys, environ["FEDSSH_PORT"])


def door(keys: Path, port: str) -> Compose:
    """Stock ssh with the keys in a folder."""

    def run(*words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        options = [f"-oUserKnownHostsFile={keys / 'known_hosts'}", "-oBatchMode=yes", "-oIdentitiesOnly=yes"]
        command = ["ssh", "-F/dev/null", "-p", port, "-i", str(keys / "auditor"), *options, "charity@localhost", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done

    return run


def until(compose: Compose, ssh: Compose, condition: Callable[[Records], object], seconds: float = 300) -> Records:
    """The records, once they are what a condition wants."""
    end = time.monotonic() + seconds
    while True:
        lines = ssh("history", "--export").stdout.splitlines()
        records = [json.loads(json.loads(line)["record"]) for line in lines]
        if condition(records):
            return records
        events = [(record["event"], record.get("site")) for record in records]
        assert time.monotonic() < end, f"{events}\n{compose('logs', '--tail=20').stdout}"
        time.sleep(0.5)


def counted(records: Records, site: str, after: int = 0) -> Records:
    """The updates of a site that were taken into rounds."""
    return [r for r in records[after:] if r["event"] == "counted" and r["site"] == site]


def closed(records: Records, without: str, after: int = 0) -> Records:
    """The rounds that closed without a site."""
    return [r for r in records[after:] if r["event"] == "round-accepted" and without in r["missing"]]


@pytest.fixture(scope="module")
def killed(compose: Compose, ssh: Compose) -> int:
    """The number of the newest record when alice-2 was killed, in a round that waited for it."""
    until(compose, ssh, lambda records: counted(records, "alice-1") and counted(records, "alice-2"))
    end = time.monotonic() + 120
    while "alice-2" not in ((json.loads(ssh("status", "--json").stdout)["rounds"]["open"] or {}).get("missing") or ()):
        assert time.monotonic() < end, ssh("history").stdout
    compose("kill", "alice-2", "bob-2")
    return len(until(compose, ssh, bool))


@pytest.fixture(scope="module")
def history(compose: Compose, ssh: Compose, killed: int) -> Records:
    """The records, once alice-2 has come back and alice-3 has come late, and the federation was finished."""
    until(compose, ssh, lambda records: closed(records, "alice-2", killed))
    compose("up", "--detach", timeout=300)
    back = len(until(compose, ssh, bool))
    until(compose, ssh, lambda records: counted(records, "alice-2", back) and counted(records, "alice-3", back))
    compose("exec", "--no-TTY", "charity", "charity", "finish")
    return until(compose, ssh, lambda records: "finished" in [record["event"] for record in records[:-1]])


def inspect(compose: Compose, service: str) -> dict[str, Any]:
    """What the engine itself says of a service's container."""
    container = compose("ps", "--all", "--quiet", service).stdout.split()[0]
    found: dict[str, Any] = docker.from_env().containers.get(container).attrs
    return found


def test_a_round_closes_without_a_site_that_was_killed_and_takes_it_in_again(history: Records, killed: int) -> None:
    assert history[0]["event"] == "genesis"
    (lost, *_) = closed(history, "alice-2", killed)
    assert [part["site"] for part in lost["updates"]] == ["alice-1"]
    (back, *_) = counted(history, "alice-2", lost["sequence"])
    assert back["round"] > lost["round"]
    assert counted(history, "alice-3")[0]["round"] > lost["round"]


@pytest.mark.parametrize("verb", ["history", "show 1", "diff 1", "best", "nodes", "status", "verify", "help"])
def test_every_verb_answers_over_ssh(history: Records, ssh: Compose, verb: str) -> None:
    words = verb.split()
    if words[0] == "diff":
        words.append(str(next(record["sequence"] for record in history if record["event"] == "round-accepted")))
    assert ssh(*words).stdout.strip()
    json.loads(ssh(*words, "--json").stdout)


def test_the_page_is_in_the_door_s_image(history: Records, ssh: Compose) -> None:
    lines = ssh("history", "--export").stdout.splitlines(keepends=True)
    assert ssh("report").stdout == "".join(piece.decode() for piece in page(line.encode() for line in lines))


def test_nothing_else_is_served(history: Records, ssh: Compose) -> None:
    assert ssh("cat /coordinator/outbox/sites.json", check=False).returncode == 2
    assert ssh(check=False).returncode != 0


@pytest.mark.parametrize("service", [*ROOMS, "setup"])
def test_every_room_has_its_walls(history: Records, compose: Compose, service: str) -> None:
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
def test_the_rooms_that_see_data_have_no_network(history: Records, compose: Compose, service: str) -> None:
    assert inspect(compose, service)["HostConfig"]["NetworkMode"] == "none"


def test_bob_reaches_only_the_door(history: Records, compose: Compose) -> None:
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
    history: Records, compose: Compose, service: str, sees: dict[str, bool]
) -> None:
    mounts = inspect(compose, service)["Mounts"]
    assert {mount["Destination"]: mount["RW"] for mount in mounts if mount["Type"] != "tmpfs"} == sees


def test_bob_has_no_tensorflow(history: Records, compose: Compose) -> None:
    question = ["exec", "--no-TTY", "bob-1", "python", "-c", "import tensorflow"]
    done = compose(*question, check=False)
    assert "No module named 'tensorflow'" in done.stderr


@pytest.mark.parametrize("image", ["fedssh-alice", "fedssh-bob", "fedssh-charity", "fedssh-door"])
def test_a_new_version_is_a_small_layer(compose: Compose, image: str) -> None:
    layers = docker.from_env().images.get(image).history()
    last, *_ = [layer["Size"] for layer in layers if layer["CreatedBy"].startswith("COPY /package")]
    packages, *_ = [layer["Size"] for layer in layers if layer["CreatedBy"].startswith("COPY /opt/fedssh")]
    assert 0 < last < 10_000_000 < packages


def test_no_room_was_killed_for_memory(history: Records, compose: Compose) -> None:
    for service in ROOMS:
        found = inspect(compose, service)
        assert not found["State"]["OOMKilled"], service
        assert found["RestartCount"] == 0, service


def test_a_network_in_two_rooms_that_have_no_network(compose: Compose, environ: dict[str, str], tmp_path: Path) -> None:
    compose("down", "--volumes", "--remove-orphans")
    environ.update(SPLIT)
    compose("up", "--detach", timeout=300)
    compose("cp", "setup:/keys/.", str(tmp_path))
    ssh = door(tmp_path, environ["FEDSSH_PORT"])
    records = until(compose, ssh, lambda records: "finished" in [record["event"] for record in records])
    assert {record["site"] for record in records if record["event"] == "report"} == {"alice-1", "alice-2", "alice-3"}
    turns = [record for record in records if record["event"] in ("accepted", "refused") and "work" in record]
    assert [turn["site"] for turn in turns] == ["alice-1", "alice-2", "alice-3"]
    assert all(turn["work"]["steps"] > 1 for turn in turns)
    for service in ("alice-1", "charity"):
        assert inspect(compose, service)["HostConfig"]["NetworkMode"] == "none"
    for service in ROOMS:
        assert not inspect(compose, service)["State"]["OOMKilled"], service
    ssh("verify")

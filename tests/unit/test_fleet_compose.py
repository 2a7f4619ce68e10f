"""What a machine runs keeps every wall of docker-compose.yml, on folders of the machine and nothing else of it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedssh.errors import SettingsError
from fleet import compose
from fleet.compose import data_in_room, render, services
from fleet.images import Image
from fleet.inventory import Given, Host

PLACE = Given("root", "192.0.2.10", 22)
COORDINATOR = Host("coordinator", "coordinator", PLACE, data_on_host="/srv/holdout.npz", port=443)
SITE = Host("hospital-a", "site", PLACE, data_on_host="/srv/xrays", settings={"classes": "a,b", "seed": 3})
ROOMS = ("charity", "door", "alice", "bob", "alice-gpu")
IMAGES = {name: Image(name, None, f"fedssh-{name}:0123456789abcdef", 0) for name in ROOMS}
WALLS = ("user", "read_only", "cap_drop", "security_opt", "pids_limit", "tmpfs", "network_mode", "restart")


def reason() -> str | None:
    """Why docker-compose.yml cannot be read here; no engine is needed for it."""
    if shutil.which("docker") is None:
        return "no docker command"
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
    return "no compose v2 plugin" if done.returncode else None


@pytest.fixture(scope="module")
def bases() -> dict[bool, dict[str, Any]]:
    if why := reason():
        pytest.skip(why)
    return {gpu: services(gpu) for gpu in (False, True)}


def rendered(host: Host, bases: dict[bool, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(host, IMAGES, bases[host.gpu]))
    return found


def bytes_of(size: str) -> int:
    return int(size) if size.isdecimal() else int(size[:-1]) << {"m": 20, "g": 30}[size[-1]]


ALL = [COORDINATOR, SITE, dataclasses.replace(SITE, gpu=True)]


@pytest.mark.parametrize("host", ALL, ids=["coordinator", "site", "gpu"])
def test_every_wall_stands(bases: dict[bool, dict[str, Any]], host: Host) -> None:
    found = rendered(host, bases)
    assert set(found["services"]) == set(host.rooms)
    for name, room in found["services"].items():
        there = bases[host.gpu][{"alice": "alice-1", "bob": "bob-1"}.get(name, name)]
        assert {wall: room.get(wall) for wall in WALLS} == {wall: there.get(wall) for wall in WALLS}
        assert room["user"] == "10001:10001" and room["read_only"] is True and room["cap_drop"] == ["ALL"]
        assert room["security_opt"] == ["no-new-privileges:true"] and 0 < room["pids_limit"] <= 256
        assert bytes_of(room["memswap_limit"]) == bytes_of(room["mem_limit"]) == bytes_of(there["mem_limit"])
        assert room["pull_policy"] == "never"
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "build", "extra_hosts"} & set(room)


@pytest.mark.parametrize("host", ALL, ids=["coordinator", "site", "gpu"])
def test_who_has_a_network_and_what_is_published(bases: dict[bool, dict[str, Any]], host: Host) -> None:
    found = rendered(host, bases)
    for name, room in found["services"].items():
        if name in ("alice", "charity"):
            assert room["network_mode"] == "none" and "networks" not in room
        else:
            assert room["networks"] == ["out"] and "network_mode" not in room
        assert room.get("ports") == (["443:2222"] if name == "door" else None)
    assert set(found["networks"]) == {"out"} and "volumes" not in found


@pytest.mark.parametrize("host", ALL, ids=["coordinator", "site", "gpu"])
def test_only_folders_of_the_state_and_the_data_are_bound(bases: dict[bool, dict[str, Any]], host: Host) -> None:
    for name, room in rendered(host, bases)["services"].items():
        for volume in room["volumes"]:
            source, place, *how = volume.split(":")
            assert re.fullmatch(r"/var/lib/fedssh/[a-z]+", source) or source == host.data_on_host
            assert source != host.data_on_host or (how == ["ro"] and name in ("alice", "charity"))
            assert place.startswith(("/coordinator/", "/data", "/exchange", "/state", "/join"))


def test_the_keys_of_one_room_are_not_bound_into_the_other(bases: dict[bool, dict[str, Any]]) -> None:
    hers, sites = (rendered(host, bases)["services"] for host in (COORDINATOR, SITE))
    assert not [volume for volume in hers["door"]["volumes"] if "/vault" in volume or "holdout" in volume]
    assert not [volume for volume in sites["alice"]["volumes"] if "/site:" in volume]
    assert not [volume for volume in sites["bob"]["volumes"] if "/data" in volume or "/srv" in volume]
    assert "/var/lib/fedssh/outbox:/coordinator/outbox:ro" in hers["door"]["volumes"]


def test_copied_data_lie_in_the_state(bases: dict[bool, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    for data, place in ((tmp_path / "a.npz", "/data/a.npz"), (tmp_path, "/data")):
        host = dataclasses.replace(SITE, data_on_host=None, data=data)
        alice = rendered(host, bases)["services"]["alice"]
        assert "/var/lib/fedssh/data:/data:ro" in alice["volumes"] and alice["environment"]["ALICE_DATA"] == place


@pytest.mark.parametrize(
    ("there", "place"), [("/srv/x.npz", "/data/x.npz"), ("/srv/xrays", "/data"), ("/srv/of.2026", "/data/of.2026")]
)
def test_data_that_lie_there_are_bound_where_the_room_looks(
    bases: dict[bool, dict[str, Any]], there: str, place: str
) -> None:
    host = dataclasses.replace(SITE, data_on_host=there)
    alice = rendered(host, bases)["services"]["alice"]
    assert (
        f"{there}:{place}:ro" in alice["volumes"] and alice["environment"]["ALICE_DATA"] == data_in_room(host) == place
    )


def test_alices_settings_and_memory(bases: dict[bool, dict[str, Any]]) -> None:
    alice = rendered(dataclasses.replace(SITE, memory="1500m"), bases)["services"]["alice"]
    assert alice["mem_limit"] == alice["memswap_limit"] == "1500m"
    assert alice["environment"] == {
        "ALICE_DATA": "/data", "ALICE_INVITATION": "/join/invitation.json", "ALICE_CLASSES": "a,b", "ALICE_SEED": "3",
    }  # fmt: skip


def test_gpus_are_reserved_where_there_are_some_and_only_for_alice(bases: dict[bool, dict[str, Any]]) -> None:
    found = rendered(dataclasses.replace(SITE, gpu=True), bases)["services"]
    (device,) = found["alice"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    assert found["alice"]["image"].startswith("fedssh-alice-gpu:") and int(found["alice"]["mem_limit"]) == 8 << 30
    assert not found["bob"].get("deploy") and not rendered(SITE, bases)["services"]["alice"].get("deploy")


@pytest.mark.parametrize("host", ALL, ids=["coordinator", "site", "gpu"])
def test_the_same_gives_the_same_bytes(bases: dict[bool, dict[str, Any]], host: Host) -> None:
    again = {name: dict(reversed(list(room.items()))) for name, room in reversed(list(services(host.gpu).items()))}
    assert render(host, IMAGES, bases[host.gpu]) == render(host, dict(reversed(IMAGES.items())), again)
    assert render(dataclasses.replace(host, port=444, memory="2g"), IMAGES, bases[host.gpu]) != render(
        host, IMAGES, bases[host.gpu]
    )


def test_variables_at_home_change_nothing(bases: dict[bool, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDSSH_PORT", "FEDSSH_POLICY", "FEDSSH_DATA"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "other")
    assert render(SITE, IMAGES, services(False)) == render(SITE, IMAGES, bases[False])


@pytest.mark.parametrize("nasty", ["$HOME", "${HOME}", "$(touch x)", "$$", "a b", "it's", 'x"y', "`x`", "{{x}}", "#x"])
def test_compose_takes_every_text_as_it_is(bases: dict[bool, dict[str, Any]], tmp_path: Path, nasty: str) -> None:
    (tmp_path / f"{nasty}.npz").touch()
    there = dataclasses.replace(SITE, data_on_host=f"/srv/{nasty}/x", settings={"classes": nasty})
    copied = dataclasses.replace(SITE, data_on_host=None, data=tmp_path / f"{nasty}.npz")
    for host in (there, copied):
        (tmp_path / "compose.yaml").write_bytes(render(host, IMAGES, bases[False]))
        words = ["docker", "compose", "--file", str(tmp_path / "compose.yaml"), "config", "--format", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
        alice = json.loads(done.stdout)["services"]["alice"]
        read = {name: value.replace("$$", "$") for name, value in alice["environment"].items()}  # it escapes again
        sources = [volume["source"].replace("$$", "$") for volume in alice["volumes"]]
        if host is there:
            assert f"/srv/{nasty}/x" in sources and read["ALICE_CLASSES"] == nasty
        else:
            assert read["ALICE_DATA"] == f"/data/{nasty}.npz"


def test_no_compose_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="the command docker is missing here"):
        services(False)
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'docker: compose is not a docker command' >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(SettingsError, match=r"docker compose cannot read docker-compose.yml: docker: compose is not"):
        services(False)


def test_every_room_of_a_machine_is_a_service_of_the_file(bases: dict[bool, dict[str, Any]]) -> None:
    assert set(compose._SERVICES.values()) <= set(bases[False])

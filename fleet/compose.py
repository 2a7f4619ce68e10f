"""What a machine runs: the services of docker-compose.yml, with their walls, on folders of the machine.

The walls (user, read-only root, no capabilities, limits) are taken from docker-compose.yml as `docker compose config`
reads it, so that they are written once. JSON is YAML; the same inventory and images give the same bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fedssh.errors import SettingsError
from fleet.images import ROOT, Image
from fleet.inventory import Host

STATE = PurePosixPath("/var/lib/fedssh")
_SERVICES = {"charity": "charity", "door": "door", "alice": "alice-1", "bob": "bob-1"}
_DROPPED = ("build", "depends_on", "networks", "ports", "volumes", "environment", "command", "entrypoint")
_VOLUMES = {
    "charity": (("vault", ""), ("inbox", ""), ("outbox", "")),
    "door": (("inbox", ""), ("outbox", "ro"), ("door", "")),
    "alice": (("exchange", "/exchange"), ("alice", "/state"), ("join", "/join:ro")),
    "bob": (("site", "/state"), ("exchange", "/exchange")),
}


def services(gpu: bool) -> dict[str, Any]:
    """The services of the demonstration, by their names there.

    Raises:
        SettingsError: `docker compose` is missing here.
    """
    files = [ROOT / "docker-compose.yml", *([ROOT / "docker-compose.gpu.yml"] if gpu else [])]
    words = [word for file in files for word in ("--file", str(file))]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDSSH_")}
    try:
        done = subprocess.run(
            ["docker", "compose", *words, "config", "--format", "json"],
            capture_output=True, text=True, check=False, env=kept, cwd=ROOT,
        )  # fmt: skip
    except FileNotFoundError:
        raise SettingsError("the command docker is missing here", "docker with compose v2 renders releases") from None
    if done.returncode:
        raise SettingsError(f"docker compose cannot read {files[0].name}: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def render(host: Host, images: Mapping[str, Image], base: Mapping[str, Any]) -> bytes:
    """The compose.yaml of one machine.

    Args:
        host: What stands on it.
        images: By name.
        base: What `services` returned.
    """
    rooms = {}
    for room, name in zip(host.rooms, host.images, strict=True):
        service = {key: value for key, value in base[_SERVICES[room]].items() if key not in _DROPPED}
        service |= {"image": images[name].called, "pull_policy": "never", "volumes": _volumes(room, host)}
        if room == "alice":
            service["mem_limit"] = host.memory if host.memory != "1g" or not host.gpu else base["alice-1"]["mem_limit"]
            service["environment"] = _environment(host)
        service["memswap_limit"] = service["mem_limit"]  # a room that is too large ends, and does not swap for hours
        if room == "door":
            service["ports"] = [f"{host.port}:2222"]
        if room in ("door", "bob"):
            service["networks"] = ["out"]
        rooms[room] = service
    networks = {"out": {"driver_opts": {"com.docker.network.bridge.name": "fedssh0"}}}
    value = {"name": "fedssh", "services": rooms, "networks": networks}
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def data_in_room(host: Host) -> str:
    """Where Charity or Alice finds the data: a file of its own name in /data, or the folder."""
    if host.data_on_host is not None:
        name = PurePosixPath(host.data_on_host).name
        return f"/data/{name}" if PurePosixPath(name).suffix else "/data"
    assert host.data is not None
    return f"/data/{host.data.name}" if host.data.is_file() else "/data"


def _literal(text: str) -> str:
    """A text in which compose finds no variable."""
    return text.replace("$", "$$")


def _volumes(room: str, host: Host) -> list[str]:
    prefix = "/coordinator/" if host.role == "coordinator" else ""
    found = []
    for name, place in _VOLUMES[room]:
        where = f"{prefix}{name}{':' + place if place else ''}" if prefix else place
        found.append(f"{STATE / name}:{where}")
    if room in ("charity", "alice"):
        folder = "holdout" if room == "charity" else "data"
        where = data_in_room(host) if host.data_on_host is not None else "/data"
        found.append(_literal(f"{host.data_on_host or STATE / folder}:{where}:ro"))
    return found


def _environment(host: Host) -> dict[str, str]:
    settings = {f"ALICE_{name.upper()}": _literal(str(value)) for name, value in host.settings.items()}
    return {"ALICE_DATA": _literal(data_in_room(host)), "ALICE_INVITATION": "/join/invitation.json", **settings}


def data_files(path: Path) -> list[Path]:
    """A file, or all files of a folder, in order; links to files as what they lead to, links to folders not at all.

    Raises:
        SettingsError: There is none, or a folder in it cannot be listed.
    """
    if path.is_file():
        return [path]
    found = [Path(folder, name) for folder, _, names in os.walk(path, onerror=_unlisted) for name in names]
    files = sorted(one for one in found if one.is_file())
    if not files:
        raise SettingsError(f"{path} has no file in it", "data is a file, or a folder with the images")
    return files


def _unlisted(error: OSError) -> None:
    raise SettingsError(f"{error.filename} cannot be read: {error.strerror}") from None

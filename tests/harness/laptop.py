"""Whoever deploys, for tests of scripts/deploy: a checkout with stand-in rooms, a home with a key, and the command.

laptop = Laptop(tmp_path, checkout(tmp_path / "checkout"), cloud)
laptop.inventory(CLOUD)
laptop.deploy("up").json["did"]                     real fleet/, real ssh, real engines; rooms of a few megabytes
running = laptop.start("up"); running.kill_at(5)    `kill -9` when it has said five lines
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.harness.cloud import Cloud
from tests.harness.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("alice", "bob", "charity", "door")
KEPT = ("PATH", "LANG", "DOCKER_HOST", "DOCKER_CONTEXT", "TMPDIR")
# One coordinator and a site in the cloud.
CLOUD = """\
[linode]
ssh_key = "key.pub"
admin_from = ["198.51.100.4/32"]
[coordinator]
host = "linode:us-east/g6-standard-1"
data = "holdout.npz"
policy = "merge"
[sites.hospital-a]
host = "linode:eu-central/g6-standard-1"
data = "a"
"""


def checkout(folder: Path, **behaviour: Mapping[str, Any]) -> Path:
    """Make a checkout whose rooms are stand-ins.

    Args:
        behaviour: Of rooms, see standin/room.py: what of them is another version, or goes wrong.
    """
    shutil.copytree(ROOT / "fleet", folder / "fleet", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "harness" / "standin", folder, dirs_exist_ok=True)
    shutil.copytree(Path(pyrage.__file__).parent, folder / "pyrage", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "docker-compose.yml", folder)
    (folder / "fedssh").symlink_to((ROOT / "fedssh").resolve())
    (folder / "behaviour").mkdir()
    for room in ROOMS:
        (folder / "behaviour" / f"{room}.json").write_text(json.dumps(behaviour.get(room, {})))
    return folder


def impatient(folder: Path) -> Path:
    """Let a checkout wait seconds for what it would wait minutes for."""
    for file, name, usual, now in (
        ("fleet", "BOOT_SECONDS", "300.0", "3.0"), ("fleet", "LOGIN_SECONDS", "180.0", "6.0"),
        ("host", "READY_SECONDS", "180", "15"), ("host", "LET_IN_SECONDS", "90", "20"),
        ("host", "WATCH_SECONDS", "8", "3"), ("linode", "POLL", "5  #", "0.5  #"),
    ):  # fmt: skip
        path = folder / "fleet" / f"{file}.py"
        text = path.read_text()
        assert text.count(f"\n{name} = {usual}") == 1, name
        path.write_text(text.replace(f"\n{name} = {usual}", f"\n{name} = {now}"))
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    said: str

    @property
    def json(self) -> Any:
        """What it printed with --json."""
        return json.loads(self.output)

    @property
    def error(self) -> str:
        """Its one line of error, of which there must not be two, and no traceback."""
        lines = [line for line in self.said.splitlines() if "error:" in line]
        assert len(lines) == 1 and lines[0].startswith("deploy: error: "), self.said
        assert "Traceback" not in self.said, self.said
        return lines[0].removeprefix("deploy: error: ")

    @property
    def hint(self) -> str:
        """Its hint."""
        (line,) = [line for line in self.said.splitlines() if line.startswith("deploy: hint: ")]
        return line.removeprefix("deploy: hint: ")


class Running:
    """A command at work; `lines` is what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._kill_at = -1
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if len(self.lines) == self._kill_at:
                self.process.kill()

    def kill_at(self, number: int) -> bool:
        """`kill -9` as soon as it has said so many lines; whether it came to that."""
        self._kill_at = number
        if len(self.lines) >= number:
            self.process.kill()
        return self.end().code == -signal.SIGKILL

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Until it has said something."""
        until(lambda: any(text in line for line in self.lines) or self.process.poll() is not None, seconds)
        assert any(text in line for line in self.lines), self.lines

    def end(self, number: int | None = None, seconds: float = 120) -> Ended:
        """Wait for its end, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stdout
        try:
            self.process.wait(seconds)
        finally:
            self.process.kill()
            output = self.process.stdout.read()
            self.process.stdout.close()
            self._reader.join()
            assert self.process.stderr
            self.process.stderr.close()
        return Ended(self.process.returncode, output, "\n".join(self.lines))


class Laptop:
    """A home with a key, an inventory beside its data, and what it takes to deploy it.

    Args:
        folder: Everything of it lies there.
        version: The checkout that is deployed; may be changed.
    """

    def __init__(self, folder: Path, version: Path, cloud: Cloud | None = None) -> None:
        self.folder, self.version, self.cloud = folder, version, cloud
        folder.mkdir(exist_ok=True)
        (folder / ".ssh").mkdir()
        key = Ed25519PrivateKey.generate()
        self.key = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        self.identity = folder / ".ssh" / "key"
        self.identity.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        self.identity.chmod(0o600)
        (folder / "key.pub").write_text(f"{self.key} laptop\n")
        (folder / "holdout.npz").write_bytes(b"images that nobody trains on")
        for site in ("a", "b"):
            (folder / site).mkdir()
            for number in range(3):
                (folder / site / f"{number}.npy").write_bytes(f"image {number} of {site}".encode())

    def inventory(self, tables: str, federation: str = "chest", more: str = "") -> Path:
        """Write fleet.toml."""
        options = [f'IdentityFile="{self.identity}"', "IdentitiesOnly=yes", "IdentityAgent=none"]
        path = self.folder / "fleet.toml"
        path.write_text(f'federation = "{federation}"\nssh = {json.dumps(options)}\n{more}\n{tables}')
        return path

    def start(self, verb: str, *words: str, **environ: str) -> Running:
        """Begin a command."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        config = os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))
        kept |= {"HOME": str(self.folder), "PYTHONPATH": str(self.version), "DOCKER_CONFIG": config}
        if self.cloud is not None:
            kept |= {"LINODE_TOKEN": self.cloud.token, "LINODE_API": self.cloud.url}
        command = [sys.executable, "-P", "-m", "fleet.cli", verb, str(self.folder / "fleet.toml"), *words]
        process = subprocess.Popen(
            command, env=kept | environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        return Running(process)

    def deploy(self, verb: str, *words: str, code: int = 0, **environ: str) -> Ended:
        """Run a command to its end, which has this code."""
        ended = self.start(verb, *words, **environ).end()
        assert ended.code == code, f"{verb} ended with code {ended.code}, not {code}\n{ended.said}\n{ended.output}"
        return ended

    @property
    def pins(self) -> dict[str, list[str]]:
        """The host keys that are believed, by machine."""
        (path,) = self.folder.glob("*.fleet/pins.json")
        found: dict[str, list[str]] = json.loads(path.read_text())
        return found

    def processes(self) -> list[str]:
        """The command lines of processes that belong to it, and the registries that run for it."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if str(self.folder) in words:
                found.append(words)
        for home in self.folder.glob("*.fleet"):
            label = f"--filter=label=fedssh.registry={home}"
            done = subprocess.run(["docker", "ps", "--quiet", label], capture_output=True, text=True, check=True)
            found += done.stdout.split()
        return found

    def holds(self, text: str) -> list[str]:
        """The files of its folder in which a text stands, apart from its own key."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path != self.identity]
        return [str(path) for path in files if text.encode() in path.read_bytes()]

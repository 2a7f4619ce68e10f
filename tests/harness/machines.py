"""Machines for tests of scripts/deploy: containers with sshd and an engine of their own, and no systemd.

with Machines() as machines:
    machine = machines.start("hospital-a", authorized_key=line, host_key=private)
    machines.run("hospital-a", "docker info")            root@machine.address, port 22, from this host only

Nothing is published: a machine has an address on a bridge of its own network, where machines know each other by name.
What a killed run has left is removed by the next.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness.waiting import until

LABEL = "fedssh-test-machines"  # its value is the process that they belong to, and a name within it
RECIPE = Path(__file__).parent / "machine"
METADATA = "169.254.169.254"
# --privileged would ask for CAP_SYS_RESOURCE, which not every host can give.
RIGHTS = (
    "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined", "--security-opt=systempaths=unconfined", "--cgroupns=host",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
)  # fmt: skip
MEMORY = {"g6-nanode-1": "1g", "g6-standard-1": "2g", "g6-standard-2": "4g"}
UNITS = {"k": 1, "m": 1 << 10, "g": 1 << 20}  # in kB


def reason() -> str | None:
    """Why no such machines can be had here, where an engine answers; or None."""
    version = _docker("info", "--format", "{{.CgroupVersion}} {{.OSType}}").strip()
    return None if version == "1 linux" else f"machines in containers need an engine with cgroup v1, not {version}"


@dataclass(frozen=True)
class Machine:
    """A machine that runs.

    Args:
        address: On the network of the machines; sshd answers at port 22.
        container: Its id.
    """

    name: str
    address: str
    container: str


class Machines:
    """Some machines, with a network of their own.

    Args:
        metadata: Start a server at 169.254.169.254, which the machines reach.
    """

    def __init__(self, metadata: bool = False) -> None:
        self.of = f"{os.getpid()}-{secrets.token_hex(2)}"
        self.machines: dict[str, Machine] = {}
        self._ids: dict[int, str] = {}
        _remove_leftovers()
        self.network = f"{LABEL}-{self.of}"
        self._make_network()
        self.metadata = self._start_metadata() if metadata else ""

    def start(
        self,
        name: str,
        memory: str = "2g",
        authorized_key: str = "",
        host_key: bytes | None = None,
        engine: bool = True,
        answers: bool = True,
        disk: str | None = None,
        passwords: bool = False,
    ) -> Machine:
        """Start a machine; others know it by its name.

        Its sshd may take a moment, and its engine a second: `wait_for_ssh` and `wait_for_engine`.

        Args:
            memory: Of all that runs on it, without swap.
            authorized_key: Who may log in as root; lines.
            host_key: OpenSSH's private Ed25519 key. Made on the machine if it is not given.
            engine: Docker is installed, and runs, on Debian 12. If not, it is Debian 13, which has all that it takes.
            answers: sshd's port answers; if not, it swallows every packet.
            disk: The size of the engine's disk, "64m", in memory. If not given, the host's.
            passwords: sshd takes passwords.
        """
        image = _image("engine" if engine else "bare")
        words = [*RIGHTS, "--init", f"--memory={memory}", f"--memory-swap={memory}", f"--hostname={name}"]
        words += [f"--network={self.network}", f"--network-alias={name}", f"--name={self.network}-{name}"]
        words += [
            f"--env=ANSWERS={'yes' if answers else 'no'}",
            f"--env=METADATA={self.metadata}",
            *self._disk(name, disk),
        ]
        container = _docker("create", f"--label={LABEL}={self.of}", *words, image).strip()
        try:
            _put(container, _files(memory, authorized_key, host_key, passwords))
            _docker("start", container)
        except (AssertionError, subprocess.CalledProcessError):
            _docker("rm", "--force", "--volumes", container)
            raise
        self.machines[name] = machine = Machine(name, _address(container, self.network), container)
        if not answers:
            self.wait_for_ssh(name)  # its port is closed to the world by then
        return machine

    def from_request(self, body: Mapping[str, Any]) -> str:
        """Start what a POST to Linode asks for, with the key and the host key of its user data; its address."""
        wanted: dict[str, Any] = {}
        if encoded := body.get("metadata", {}).get("user_data"):
            first, _, rest = base64.b64decode(encoded).decode().partition("\n")
            assert first == "#cloud-config", first
            wanted = json.loads(rest)
        private = wanted.get("ssh_keys", {}).get("ed25519_private")
        machine = self.start(
            body["label"], MEMORY[body["type"]], "".join(f"{line}\n" for line in body["authorized_keys"]),
            private and private.encode(), passwords=wanted.get("ssh_pwauth", False),
        )  # fmt: skip
        if "id" in body:
            self._ids[body["id"]] = machine.name
        return machine.address

    def deleted(self, machine_id: int) -> None:
        """Remove what `from_request` started for that id."""
        self.remove(self._ids.pop(machine_id))

    def run(self, name: str, words: str, check: bool = True, timeout: float = 60) -> str:
        """Run words of a shell on a machine, not through SSH; what they print."""
        command = ["docker", "exec", self.machines[name].container, "sh", "-c", words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
        assert not check or done.returncode == 0, f"{name}: {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def wait_for_ssh(self, name: str, seconds: float = 30) -> None:
        """Until sshd listens."""
        listens = "ss -Hltn 'sport = :22' | grep -q ."
        until(lambda: self._succeeds(name, listens), seconds, lambda: self.log(name))

    def wait_for_engine(self, name: str, seconds: float = 60) -> None:
        """Until the engine on a machine answers."""
        until(lambda: self._succeeds(name, "docker info"), seconds, lambda: self.log(name))

    def log(self, name: str) -> str:
        """What sshd and the engine of a machine have said."""
        return _docker("logs", "--tail=30", self.machines[name].container) + self.run(
            name, "tail -n 30 /var/log/docker.log", check=False
        )

    def kill(self, name: str) -> None:
        """As if somebody pulled the plug; `boot` starts it again, with its disk."""
        _docker("kill", self.machines[name].container)

    def stop(self, name: str) -> None:
        """Shut a machine down."""
        _docker("stop", "--time=5", self.machines[name].container)

    def boot(self, name: str) -> Machine:
        """Start a machine again; it may have another address."""
        container = self.machines[name].container
        _docker("start", container)
        self.machines[name] = machine = Machine(name, _address(container, self.network), container)
        return machine

    def oom_kills(self, name: str) -> int:
        """How many processes on a machine, also in its containers, the kernel has killed for want of memory."""
        container = self.machines[name].container
        lines = self.run(name, "dmesg | grep -F 'oom-kill:' || true").splitlines()
        return sum(f"/{container}" in line.partition("task_memcg=")[2] for line in lines)

    def remove(self, name: str) -> None:
        """Remove a machine with its disk."""
        machine = self.machines.pop(name)
        _docker("rm", "--force", "--volumes", machine.container)
        _docker("volume", "rm", "--force", f"{self.network}-{name}")

    def remove_all(self) -> None:
        """Remove all machines, their disks and their network."""
        _remove(self.of)
        self.machines.clear()

    def __enter__(self) -> Machines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_all()

    def _make_network(self) -> None:
        """On the first subnet that nobody has; none that an engine takes by itself, as machines' engines do."""
        first = os.getpid() % 250
        for turn in range(250):
            subnet = f"10.213.{(first + turn) % 250 + 1}.0/24"
            words = ["network", "create", f"--label={LABEL}={self.of}", f"--subnet={subnet}", self.network]
            done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=60)
            if done.returncode == 0:
                return
            assert "overlaps" in done.stderr, done.stderr
        raise AssertionError("no subnet is left")

    def _start_metadata(self) -> str:
        """Start the metadata server; its address on the machines' network, by which they reach its own."""
        words = [f"--label={LABEL}={self.of}", f"--network={self.network}", "--cap-add=NET_ADMIN", "--init"]
        container = _docker("run", "--detach", *words, _image("engine"), "metadata").strip()
        return _address(container, self.network)

    def _disk(self, name: str, size: str | None) -> list[str]:
        if size:
            return [f"--tmpfs=/var/lib/docker:rw,exec,size={size}"]
        volume = _docker("volume", "create", f"--label={LABEL}={self.of}", f"{self.network}-{name}").strip()
        return [f"--volume={volume}:/var/lib/docker"]

    def _succeeds(self, name: str, words: str) -> bool:
        command = ["docker", "exec", self.machines[name].container, "sh", "-c", words]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def _files(memory: str, authorized_key: str, host_key: bytes | None, passwords: bool) -> dict[str, bytes]:
    """What is put into a machine before its first start, by path."""
    kilobytes = int(memory[:-1]) * UNITS[memory[-1]]
    free = {"MemTotal": kilobytes, "MemFree": kilobytes * 3 // 4, "MemAvailable": kilobytes * 7 // 8}
    lines = {**free, "Buffers": 0, "Cached": 0, "SwapTotal": 0, "SwapFree": 0}
    settings = f"PasswordAuthentication {'yes' if passwords else 'no'}\n"
    files = {
        "etc/meminfo": "".join(f"{name + ':':<15}{value:>9} kB\n" for name, value in lines.items()).encode(),
        "etc/ssh/sshd_config.d/cloud.conf": settings.encode(),
        "root/.ssh/authorized_keys": authorized_key.encode(),
    }
    return files | ({"etc/ssh/ssh_host_ed25519_key": host_key} if host_key else {})


def _put(container: str, files: Mapping[str, bytes]) -> None:
    """Write files into a container, readable by root only where they are root's."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        folder = tarfile.TarInfo("root/.ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o600 if "key" in path else 0o644
            archive.addfile(member, io.BytesIO(content))
    subprocess.run(
        ["docker", "cp", "-", f"{container}:/"], input=packed.getvalue(), capture_output=True, check=True, timeout=60
    )


def _image(target: str) -> str:
    """The image of a machine; built once per engine, and again when its recipe changes."""
    plugin = _compose_plugin()
    recipe = [*sorted(RECIPE.iterdir()), plugin]
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in recipe)).hexdigest()[:12]
    image = f"{LABEL}-{target}:{digest}"
    with open(Path(tempfile.gettempdir()) / f"{LABEL}-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            with tempfile.TemporaryDirectory() as folder:
                for path in recipe:
                    shutil.copy2(path, Path(folder) / path.name)
                _docker("build", f"--target={target}", f"--tag={image}", folder, timeout=900)
    return image


def _compose_plugin() -> Path:
    """The host's compose v2, for the machines."""
    plugins = json.loads(_docker("info", "--format", "{{json .ClientInfo.Plugins}}"))
    return Path(next(plugin["Path"] for plugin in plugins if plugin["Name"] == "compose"))


def _address(container: str, network: str) -> str:
    return _docker(
        "inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container
    ).strip()


def _remove_leftovers() -> None:
    """Remove what belongs to processes that are no more."""
    owners = set()
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        owners |= set(_docker(*kind, f"--filter=label={LABEL}", "--format", f'{{{{.Label "{LABEL}"}}}}').split())
    for owner in owners:
        try:
            os.kill(int(owner.partition("-")[0]), 0)
        except ProcessLookupError:
            _remove(owner)


def _remove(owner: str) -> None:
    """Remove everything that belongs together, in the order in which it lets itself be removed."""
    for listed, remove in (
        (["ps", "--all"], ["rm", "--force", "--volumes"]),
        (["volume", "ls"], ["volume", "rm", "--force"]),
        (["network", "ls"], ["network", "rm"]),
    ):
        if found := _docker(*listed, "--quiet", f"--filter=label={LABEL}={owner}").split():
            _docker(*remove, *found)


def _docker(*words: str, timeout: float = 120) -> str:
    """What a docker command prints; a failure with what it said."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode:
        raise AssertionError(
            f"docker {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout

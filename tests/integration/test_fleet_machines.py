"""What tests of scripts/deploy call a machine: sshd with a known key, an engine, limits that hold, no trace left."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fleet.linode import Account
from tests.harness import machines as harness
from tests.harness.cloud import Cloud
from tests.harness.machines import LABEL, METADATA, Machine, Machines
from tests.harness.waiting import until

pytestmark = pytest.mark.docker
# What asks the metadata server, without curl.
ASK = f"exec 3<>/dev/tcp/{METADATA}/80 && printf 'GET /v1/user-data HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
# An image of one folder with what this machine's shell needs.
TINY = """
mkdir -p /tmp/tiny && cd /tmp/tiny && for program in sh bash cat timeout tail; do
  for file in $(command -v $program) $(ldd $(command -v $program) | grep -o '/[^ ]*'); do cp --parents -L $file .; done
done; tar -c . | docker import - tiny:1"""
SSH = ("-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5")


def key_pair() -> tuple[bytes, str]:
    """An Ed25519 key in OpenSSH's form, and its public line."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), public


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    if why := harness.reason():
        pytest.skip(why)
    with Machines(metadata=True) as some:
        yield some


class Login:
    """Stock ssh as root, with a key of its own and one pinned host key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        private, self.key = key_pair()
        (folder / "key").write_bytes(private)
        (folder / "key").chmod(0o600)

    def __call__(self, machine: Machine, host_key: str, words: str) -> subprocess.CompletedProcess[str]:
        known = self.folder / "known_hosts"
        known.write_text(f"{machine.address} {host_key}\n")
        options = [*SSH, "-i", str(self.folder / "key"), "-o", f"UserKnownHostsFile={known}"]
        command = ["ssh", *options, f"root@{machine.address}", words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Login:
    return Login(tmp_path_factory.mktemp("login"))


@pytest.fixture(scope="module")
def pair(machines: Machines, login: Login) -> tuple[Machine, str]:
    """Two machines, of which the first was asked of a cloud; it and its host key."""
    private, public = key_pair()
    keys = {"ed25519_private": private.decode(), "ed25519_public": public}
    data = "#cloud-config\n" + json.dumps({"ssh_keys": keys, "ssh_pwauth": False})
    body = {
        "id": 7, "label": "chest-a", "type": "g6-nanode-1", "authorized_keys": [login.key],
        "metadata": {"user_data": base64.b64encode(data.encode()).decode()},
    }  # fmt: skip
    address = machines.from_request(body)
    machines.start("chest-b", memory="300m", authorized_key=login.key)
    assert machines.machines["chest-a"].address == address
    for name in ("chest-a", "chest-b"):
        machines.wait_for_ssh(name)
        machines.wait_for_engine(name)
    return machines.machines["chest-a"], public


def test_login_needs_the_key_and_the_host_key_that_were_given(pair: tuple[Machine, str], login: Login) -> None:
    machine, host_key = pair
    done = login(machine, host_key, "hostname; command -v python3 systemctl; docker info --format '{{.Driver}}'")
    assert done.stdout.split() == ["chest-a", "overlay2"], done
    other = login(machine, key_pair()[1], "true")
    assert other.returncode == 255 and "Host key verification failed" in other.stderr


def test_no_password_is_asked_for(pair: tuple[Machine, str], machines: Machines) -> None:
    settings = machines.run("chest-a", "sshd -T")
    assert "passwordauthentication no\n" in settings
    assert machines.run("chest-a", "ls /etc/ssh/ssh_host_*_key").split() == ["/etc/ssh/ssh_host_ed25519_key"]


def test_machines_know_each_other_by_name(pair: tuple[Machine, str], machines: Machines) -> None:
    assert machines.run("chest-b", "bash -c 'head -c 7 </dev/tcp/chest-a/22'") == "SSH-2.0"


def test_memory_is_the_types_also_for_what_runs_inside(pair: tuple[Machine, str], machines: Machines) -> None:
    assert machines.run("chest-a", "free --mebi | awk '/^Mem/ {print $2}'") == "1024\n"
    assert machines.run("chest-a", "docker info --format '{{.MemTotal}}'") == f"{1 << 30}\n"
    machines.run("chest-b", TINY)
    assert machines.oom_kills("chest-b") == 0
    # No limit of its own: what stops it is the machine's.
    machines.run("chest-b", "docker run --rm tiny:1 tail /dev/zero", check=False)
    assert machines.oom_kills("chest-b") >= 1
    assert machines.oom_kills("chest-a") == 0


def test_containers_inside_reach_the_metadata_server_until_they_are_kept_from_it(
    pair: tuple[Machine, str], machines: Machines
) -> None:
    assert "user data" in machines.run("chest-a", f"bash -c '{ASK.replace(chr(39), chr(34))}'")
    machines.run("chest-a", TINY)
    inside = f"docker run --rm tiny:1 timeout 3 bash -c '{ASK.replace(chr(39), chr(34))}'"
    assert "user data" in machines.run("chest-a", inside)
    machines.run("chest-a", f"iptables -I DOCKER-USER -d {METADATA} -j DROP")
    assert "user data" not in machines.run("chest-a", inside, check=False)
    assert "user data" in machines.run("chest-a", f"bash -c '{ASK.replace(chr(39), chr(34))}'")


def test_a_killed_machine_boots_with_its_disk(machines: Machines, login: Login) -> None:
    private, public = key_pair()
    machines.start("again", authorized_key=login.key, host_key=private)
    machines.wait_for_engine("again")
    machines.run("again", TINY + "\necho here >/srv/file; sync")
    machines.run("again", "docker run --detach --restart=always tiny:1 tail -f /dev/null")
    machines.kill("again")
    machine = machines.boot("again")
    machines.wait_for_ssh("again")
    machines.wait_for_engine("again")
    assert login(machine, public, "cat /srv/file").stdout == "here\n"
    until(lambda: machines.run("again", "docker ps --quiet") != "", 30)
    machines.remove("again")


def test_a_machine_without_an_engine_takes_debians(machines: Machines) -> None:
    machines.start("bare", engine=False)
    machines.wait_for_ssh("bare")
    assert machines.run("bare", "command -v docker docker-compose || cat /etc/debian_version").startswith("13.")
    if machines.run("bare", "apt-get update --error-on=any >&2 || echo no", check=False, timeout=120):
        pytest.skip("no Debian mirror can be reached")
    packages = "docker.io docker-cli docker-compose"
    install = f"DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends {packages}"
    machines.run("bare", f"{install} && service docker start", timeout=300)
    machines.wait_for_engine("bare")
    assert machines.run("bare", "docker compose version --short").startswith("2.")
    machines.run("bare", TINY)
    assert machines.run("bare", "docker run --rm tiny:1 sh -c 'echo runs'") == "runs\n"
    machines.remove("bare")


def test_a_machine_that_never_answers(machines: Machines, login: Login) -> None:
    machine = machines.start("silent", answers=False)
    begun = time.monotonic()
    done = login(machine, key_pair()[1], "true")
    assert done.returncode == 255 and "timed out" in done.stderr
    assert time.monotonic() - begun > 4
    machines.remove("silent")


def test_a_clouds_machines_come_and_go(machines: Machines, login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    private, public = key_pair()
    data = "#cloud-config\n" + json.dumps({"ssh_keys": {"ed25519_private": private.decode()}, "ssh_pwauth": False})
    with Cloud(machines.from_request, machines.deleted) as cloud:
        account = Account(cloud.token, cloud.url, lambda seconds: None)
        wall = account.firewall("chest", "fedssh-chest", ["198.51.100.4/32"], [2222])
        made = account.make(
            "chest-c",
            "fedssh-chest",
            "us-east",
            "g6-standard-1",
            "linode/debian13",
            login.key,
            data,
            wall,
        )
        ready = account.ready(made.id, 60, lambda status: None)
        machine = machines.machines["chest-c"]
        machines.wait_for_ssh("chest-c")
        assert machine.address == ready.address
        assert login(machine, public, "hostname").stdout == "chest-c\n"
        for thing in account.things("fedssh-chest"):
            account.delete(thing)
        assert "chest-c" not in machines.machines
        assert login(machine, public, "true").returncode == 255
        assert cloud.violations == []


def test_a_small_disk_gets_full(machines: Machines) -> None:
    machines.start("small", disk="8m")
    machines.wait_for_engine("small")
    said = machines.run(
        "small", "head -c 20M /dev/zero >/tmp/a; tar -C /tmp -c a | docker import - big:1 2>&1", check=False
    )
    assert "no space left on device" in said
    machines.remove("small")


def test_nothing_is_left_also_of_a_run_that_was_killed(tmp_path: Path) -> None:
    if why := harness.reason():
        pytest.skip(why)
    program = (
        "from tests.harness.machines import *; m = Machines(); m.start('left'); print(m.of, flush=True); os.abort()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    owner = done.stdout.strip()
    assert listed(owner) == 3, done.stderr
    with Machines():
        assert listed(owner) == 0


def listed(owner: str) -> int:
    """How many containers, volumes and networks a process has."""
    found = ""
    for kind in ("container", "volume", "network"):
        words = ["docker", kind, "ls", "--quiet", f"--filter=label={LABEL}={owner}", *["--all"] * (kind == "container")]
        found += subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    return len(found.split())

"""scripts/deploy against machines: real ssh, real engines, a fake of the cloud, rooms that are stand-ins of a few MB.

The tests of a federation share it, in their order: each leaves it as it should be.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import machines as harness
from tests.harness.cloud import Cloud
from tests.harness.deployed import Deployed, deployed
from tests.harness.laptop import CLOUD, Laptop, checkout, impatient
from tests.harness.machines import METADATA, Machines
from tests.harness.waiting import until

pytestmark = pytest.mark.docker
COORDINATOR, SITE, OTHER = "chest-coordinator", "chest-hospital-a", "chest-hospital-b"
TWO_SITES = CLOUD + '[sites.hospital-b]\nhost = "linode:eu-central/g6-standard-1"\ndata = "b"\n'
LEDGER = "cat /var/lib/fedssh/vault/ledger.db /var/lib/fedssh/outbox/ledger.jsonl"
ALL_FILES = "/var/lib/fedssh /opt/fedssh /root /etc /run /tmp /var/log"


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    if why := harness.reason():
        pytest.skip(why)
    with Machines(metadata=True) as some:
        yield some


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version that everything begins with."""
    return impatient(checkout(tmp_path_factory.mktemp("versions") / "first"))


@pytest.fixture(scope="module")
def federation(machines: Machines, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(machines, first, tmp_path_factory.mktemp("a laptop"), TWO_SITES) as made:
        yield made


def test_a_fresh_federation_is_made_as_planned(federation: Deployed) -> None:
    lines = [line.split() for line in federation.planned.output.splitlines()]
    for host in ("coordinator", "hospital-a", "hospital-b"):
        steps = [line[1] for line in lines if line[:1] == [host] and line[-1].startswith("$") is False]
        assert steps[:2] == ["machine", "host-key"] and steps[-1] == "start"
        assert [host, "g6-standard-1", "$0.0180", "$12.00"] in lines
    assert ["all", "$0.0540", "$36.00"] in lines
    found = federation.made.json
    assert found["proof"] == {
        "coordinator": "record 1, 0 sites, open", "hospital-a": "has release 0", "hospital-b": "has release 0",
    }  # fmt: skip
    after = federation.laptop.deploy("plan", "--json").json
    assert after["steps"] == [] and after["monthly"] == 36
    genesis = json.loads(federation.run(COORDINATOR, "head -n 1 /var/lib/fedssh/outbox/ledger.jsonl"))
    assert genesis["policy"] == "merge" and genesis["name"] == "chest" and genesis["data"] == "/data/holdout.npz"


def test_a_second_up_has_nothing_to_do(federation: Deployed) -> None:
    before = {name: federation.started(name) for name in (COORDINATOR, SITE, OTHER)}
    found = federation.laptop.deploy("up", "--json").json
    assert found["did"] == [] and set(found["proof"]) == {"coordinator", "hospital-a", "hospital-b"}
    federation.well()
    assert before == {name: federation.started(name) for name in before}


def test_the_host_key_that_a_machine_was_born_with_is_gone(federation: Deployed) -> None:
    for number, machine in federation.cloud.machines.items():
        born = json.loads(federation.cloud.user_data[number].partition("\n")[2])["ssh_keys"]
        own = federation.run(machine["label"], "cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
        assert federation.laptop.pins[machine["label"]] == [own] != [born["ed25519_public"]]
        secret = born["ed25519_private"].splitlines()[2]
        assert federation.laptop.holds(secret) == []
        assert secret not in federation.run(machine["label"], "cat /etc/ssh/ssh_host_*_key")


def test_no_secret_leaves_its_room(federation: Deployed) -> None:
    laptop, token = federation.laptop, federation.cloud.token
    assert laptop.holds(token) == [] == laptop.holds("PRIVATE KEY")
    token = f"[{token[0]}]{token[1:]}"  # so that whoever searches does not find itself
    kept = {
        COORDINATOR: {"vault/coordinator_key", "door/host_key"}, SITE: {"site/site_key"}, OTHER: {"site/site_key"},
    }  # fmt: skip
    for machine, keys in kept.items():
        found = federation.run(machine, f"grep -rsl '{token}' {ALL_FILES} || true")
        found += federation.run(machine, f"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -c '{token}' || true")
        found += federation.run(machine, f"docker inspect $(docker ps -aq) | grep '{token}' || true")
        assert found == "0\n"
        held = federation.run(machine, "grep -rl 'PRIVATE KEY' /var/lib/fedssh /opt/fedssh /root /tmp").split()
        assert {path.removeprefix("/var/lib/fedssh/") for path in held} == keys
        assert federation.run(machine, "find /var/lib/fedssh -name '*_key' ! -user 10001") == ""


def test_a_site_listens_for_ssh_only(federation: Deployed) -> None:
    listens = "ss -Hltn | awk '{print $4}' | grep -v '^127\\.\\|^\\[::1\\]' | sed 's/.*://' | sort -u"
    assert federation.run(SITE, listens).split() == ["22"]
    assert federation.run(COORDINATOR, listens).split() == ["22", "2222"]


def test_rooms_do_not_reach_the_metadata_server(federation: Deployed) -> None:
    ask = (
        f'import socket; line = socket.create_connection(("{METADATA}", 80), 3);'
        ' line.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n"); print(line.recv(4096))'
    )
    image = federation.run(SITE, "docker inspect --format '{{.Config.Image}}' fedssh-bob-1").strip()
    for network, reached in (("bridge", True), ("fedssh_out", False)):
        command = f"docker run --rm --network {network} --entrypoint python {image} -c '{ask}' 2>&1 || true"
        said = federation.run(SITE, command)
        assert ("user data" in said) is reached, said
        assert ("timed out" in said) is not reached, said


def test_a_wrong_token(federation: Deployed) -> None:
    ended = federation.laptop.deploy("up", code=2, LINODE_TOKEN="wrong")
    assert ended.error == "linode's API does not know the token in LINODE_TOKEN: Invalid Token"
    assert "https://cloud.linode.com/profile/tokens" in ended.hint
    assert federation.laptop.deploy("plan", code=2, LINODE_TOKEN="").error == "no LINODE_TOKEN"


def test_what_the_cloud_does_not_have(federation: Deployed) -> None:
    laptop = Laptop(federation.folder / "wishes", federation.first, federation.cloud)
    before = len(federation.cloud.machines)
    for wish, error in (
        ("us-east/g6-standart-1", "linode has no type 'g6-standart-1'"),
        ("us-oest/g6-standard-1", "linode has no region 'us-oest'"),
        ("us-den-edge-1/g6-standard-1", "g6-standard-1 is not to be had in us-den-edge-1, which has no Metadata"),
        ("us-east/g6-nanode-1", "coordinator: 1.02 GB of memory, the judge, the engine and the system need 1.06 GB"),
    ):
        laptop.inventory(CLOUD.replace("us-east/g6-standard-1", wish), "wishes")
        assert error in laptop.deploy("up", code=2).error
    assert len(federation.cloud.machines) == before and federation.cloud.violations == []


def test_a_label_that_is_taken(federation: Deployed) -> None:
    cloud = federation.cloud
    laptop = Laptop(federation.folder / "taken", federation.first, cloud)
    laptop.inventory(CLOUD.partition("[sites")[0], "taken")
    foreign = cloud.add_machine("taken-coordinator", ["somebody-elses"])
    ended = laptop.deploy("up", code=2)
    assert ended.error == "machine taken-coordinator is there already and does not have the tag fedssh-taken"
    assert "1 removed, nothing is left" in laptop.deploy("down", "--yes").output  # the firewall, made before
    assert foreign["id"] in cloud.machines
    del cloud.machines[foreign["id"]]
    assert {wall["label"].partition("-")[0] for wall in cloud.firewalls.values()} == {"chest"}


def test_the_api_asks_for_patience_and_answers_are_lost(federation: Deployed) -> None:
    cloud = federation.cloud
    cloud.fail("GET", "/linode/instances", 429, headers={"Retry-After": "1"})
    cloud.fail("GET", "/networking/firewalls", 502)
    federation.well()
    cloud.fail("GET", "/linode/instances", 429, headers={"Retry-After": "10000"})
    ended = federation.laptop.deploy("up", code=4)
    assert ended.error == "could not list linodes: Linode's API: 429 Too many requests"


@pytest.mark.parametrize("wrong", ["never boots", "never answers"])
def test_a_machine_that_does_not_come_up(federation: Deployed, machines: Machines, wrong: str) -> None:
    nowhere = harness_address(machines)
    with Cloud(lambda body: nowhere) as cloud:
        cloud.stages = ["provisioning"] if wrong == "never boots" else ["running"]
        laptop = Laptop(federation.folder / wrong, federation.first, cloud)
        laptop.inventory(CLOUD.partition("[sites")[0], "silent")
        error = laptop.deploy("up", code=4).error
        if wrong == "never boots":
            assert error == "silent-coordinator is still provisioning after 3 s"
        else:
            assert error.startswith(f"coordinator (root@{nowhere}:22) cannot be reached: ")
        assert [machine["label"] for machine in cloud.machines.values()] == ["silent-coordinator"]
        assert "2 removed, nothing is left" in laptop.deploy("down", "--yes").output
        assert cloud.machines == {} == cloud.firewalls and cloud.violations == []


def harness_address(machines: Machines) -> str:
    """An address that nobody has."""
    words = ["docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", machines.network]
    subnet = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    return subnet.removesuffix(".0/24") + ".250"


def test_another_host_key(federation: Deployed) -> None:
    def accepted() -> int:
        words = ["docker", "logs", federation.machines.machines[SITE].container]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return (done.stdout + done.stderr).count("Accepted ")

    before = accepted()
    assert before > 0
    reload = 'kill -HUP "$(cat /run/sshd.pid)"'
    federation.run(SITE, "cd /etc/ssh && mkdir /root/aside && mv ssh_host_ed25519_key* /root/aside/ && ssh-keygen -qA")
    federation.run(SITE, f"rm /etc/ssh/ssh_host_rsa_key* /etc/ssh/ssh_host_ecdsa_key*; {reload}")
    try:
        other = federation.run(SITE, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        until(lambda: federation.run(SITE, "ss -Hltn 'sport = :22'") != "")
        ended = federation.laptop.deploy("up", code=3)
        assert f"answered with the host key {other}, not with the one that is pinned" in ended.error
        assert ended.hint.endswith("Nothing was sent")
        assert accepted() == before
    finally:
        federation.run(SITE, f"mv /root/aside/* /etc/ssh/ && rmdir /root/aside && {reload}")
        until(lambda: federation.run(SITE, "ss -Hltn 'sport = :22'") != "")
    federation.well()


def test_two_at_once(federation: Deployed, tmp_path: Path) -> None:
    laptop = federation.laptop
    running = laptop.start("up")
    running.wait_for("waiting until she judges")
    running.process.send_signal(signal.SIGSTOP)
    try:
        here = laptop.deploy("up", code=1)
        assert f"process {running.process.pid}, works on chest.fleet at the moment" in here.error
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(laptop.folder, elsewhere)
        other = Laptop.__new__(Laptop)
        other.folder, other.version, other.cloud, other.identity = (
            elsewhere,
            laptop.version,
            laptop.cloud,
            laptop.identity,
        )
        lines = other.start("up").end()
        assert lines.code == 1 and ", up, since 20" in lines.said and "works on it at the moment" in lines.said
    finally:
        running.process.send_signal(signal.SIGCONT)
    assert running.end().code == 0
    federation.well()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop(federation: Deployed, number: int) -> None:
    running = federation.laptop.start("up")
    running.wait_for("waiting until she judges")
    ended = running.end(number)
    assert ended.code == 130 and "Traceback" not in ended.said
    until(lambda: federation.laptop.processes() == [], 20)
    federation.well()


def test_killed_and_told_to_stop_while_a_federation_is_made(machines: Machines, first: Path, tmp_path: Path) -> None:
    """The short form of `python -m tests.attacks.killed_deployments`: one `up` after the other, each cut off."""
    chance = random.Random(7)
    with Cloud(machines.from_request, machines.deleted) as cloud:
        cloud.stages = ["running"]
        cloud.fail("POST", "/linode/instances", 502, after=True)  # made, and nobody was told
        laptop = Laptop(tmp_path / "home", first, cloud)
        laptop.inventory(CLOUD, "killed")
        running = laptop.start("up")
        posted: list[str] = []

        def dies(method: str, path: str) -> None:
            posted.append(path)
            if method == "POST" and posted.count("/linode/instances") >= 1 and "instances" in path:
                running.process.kill()

        cloud.before = dies
        assert running.end().code == -signal.SIGKILL
        cloud.before = lambda method, path: None
        running = laptop.start("up")
        running.wait_for("shipping")
        ended = running.end(signal.SIGINT)
        assert ended.code == 130
        until(lambda: laptop.processes() == [], 20)  # a registry goes when its input has ended
        for _ in range(6):
            laptop.start("up").kill_at(chance.randint(1, 6))
        found = laptop.deploy("up", "--json").json
        assert set(found["proof"]) == {"coordinator", "hospital-a"}
        assert sorted(machine["label"] for machine in cloud.machines.values()) == [
            "killed-coordinator",
            "killed-hospital-a",
        ]
        assert laptop.deploy("up", "--json").json["did"] == []
        until(lambda: laptop.processes() == [], 20)
        laptop.deploy("down", "--yes")
        assert cloud.machines == {} == cloud.firewalls and cloud.violations == []

"""scripts/deploy on machines that are there already: two organisations, a user with sudo, what goes wrong at first.

See test_fleet.py. The tests share two machines, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import machines as harness
from tests.harness.laptop import Laptop, checkout, impatient
from tests.harness.machines import Machines
from tests.harness.waiting import until

pytestmark = pytest.mark.docker
SCANNED = "cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub"


@dataclass
class Two:
    """A coordinator's operator and a hospital's, each with a machine and an inventory of their own."""

    machines: Machines
    versions: Path
    operator: Laptop
    hospital: Laptop

    def host(self, name: str, user: str = "root") -> str:
        """The lines of an inventory about a machine, whose host key is pinned."""
        key = self.machines.run(name, SCANNED).strip()
        return f'host = "{user}@{self.machines.machines[name].address}"\nhost_key = "{key}"\n'


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    if why := harness.reason():
        pytest.skip(why)
    versions = tmp_path_factory.mktemp("versions")
    first = impatient(checkout(versions / "first"))
    operator, hospital = (Laptop(tmp_path_factory.mktemp(name), first) for name in ("operator", "hospital"))
    with Machines() as machines:
        for name, laptop in (("main", operator), ("hospital", hospital)):
            machines.start(name, authorized_key=laptop.key)
            machines.wait_for_ssh(name)
            machines.wait_for_engine(name)
        yield Two(machines, versions, operator, hospital)


def test_no_key_is_trusted_on_first_use(two: Two) -> None:
    two.operator.inventory(
        f'[coordinator]\nhost = "root@{two.machines.machines["main"].address}"\ndata = "holdout.npz"'
    )
    ended = two.operator.deploy("up", code=3)
    assert "no host key is pinned for it" in ended.error and "host_key = " in ended.hint


@pytest.mark.long
def test_a_full_disk(two: Two) -> None:
    machines, laptop = two.machines, two.operator
    machines.start("full", authorized_key=laptop.key, disk="24m")
    machines.wait_for_ssh("full")
    machines.wait_for_engine("full")
    laptop.inventory(f'[coordinator]\n{two.host("full")}data = "holdout.npz"', "full")
    ended = laptop.deploy("up", code=2)
    assert ended.error == "coordinator: 0.0 GB of disk are free, 6 GB are needed"
    assert ended.hint == "--force tries it all the same"
    assert "no space left on device" in laptop.deploy("up", "--force", code=1).error
    assert "1 removed" in laptop.deploy("down", "--yes", "--purge").output
    assert machines.run("full", "ls -d /opt/fedssh /var/lib/fedssh 2>/dev/null || true") == ""
    machines.remove("full")


@pytest.mark.long
def test_a_first_release_that_does_not_start_is_followed_by_one_that_does(two: Two) -> None:
    laptop = two.operator
    laptop.inventory(f'[coordinator]\n{two.host("main")}data = "holdout.npz"\nsessions = 7')
    good, laptop.version = laptop.version, impatient(checkout(two.versions / "broken", charity={"serve": "exits"}))
    error = laptop.deploy("up", code=1).error
    assert error == "coordinator: Charity does not stay up: charity: error: this version does not start"
    # Rubbish is what this stand-in does to its history; begin anew.
    assert "1 removed" in laptop.deploy("down", "--yes", "--purge").output
    laptop.version = good
    assert laptop.deploy("up", "--json").json["proof"] == {"coordinator": "record 1, 0 sites, open"}
    assert "nothing to do" in laptop.deploy("up").output


def test_a_hospital_and_a_coordinator_with_an_inventory_each(two: Two) -> None:
    machines, operator, hospital = two.machines, two.operator, two.hospital
    machines.run("hospital", "mkdir -p /srv/xrays && echo image > /srv/xrays/1.npy && chmod 700 /srv/xrays")
    site = f'[sites.hospital-a]\n{two.host("hospital")}data_on_host = "/srv/xrays"\n'
    hospital.inventory(site)
    ended = hospital.deploy("up", code=1)
    assert "/srv/xrays cannot be read by the rooms' user" in ended.error
    machines.run("hospital", "chmod -R o+rX /srv/xrays")

    ended = hospital.deploy("up", "--json")
    assert ended.json["waiting_for_invitation"] == ["hospital-a"] and ended.json["proof"] == {}
    key = hospital.folder / "chest.fleet" / "keys" / "hospital-a.pub"
    assert f"hospital-a: send {key} to the coordinator's operator" in ended.said
    assert machines.run("hospital", "docker ps --quiet") == ""
    plan = hospital.deploy("plan", "--json")
    assert [(step["name"], step["verb"]) for step in plan.json["steps"]] == [("invitation", "wait")]
    assert "nothing to do" in hospital.deploy("up").output

    (operator.folder / "hospital-a.pub").write_bytes(key.read_bytes())
    coordinator = f'[coordinator]\n{two.host("main")}data = "holdout.npz"\nsessions = 7\n'
    operator.inventory(coordinator + '[sites.hospital-a]\nkey = "hospital-a.pub"\n')
    ended = operator.deploy("up")
    invitation = operator.folder / "chest.fleet" / "invitations" / "hospital-a.json"
    assert f"send {invitation} to whoever deploys hospital-a" in ended.said
    assert "nothing to do" in operator.deploy("up").output

    (hospital.folder / "invitation.json").write_bytes(invitation.read_bytes())
    hospital.inventory(site + 'invitation = "invitation.json"\n')
    assert hospital.deploy("up", "--json").json["proof"] == {"hospital-a": "has release 0"}
    assert "nothing to do" in hospital.deploy("up").output
    said = machines.run("hospital", "docker logs fedssh-alice-1")
    assert "alice: hospital-a trains on 1 files" in said
    # Another key under that name is not enrolled silently.
    invitation.unlink()
    (operator.folder / "hospital-a.pub").write_text(f"{hospital.key}\n")
    assert "hospital-a is enrolled with the key SHA256:" in operator.deploy("up", code=2).error
    (operator.folder / "hospital-a.pub").write_bytes(key.read_bytes())
    operator.deploy("up")
    assert (hospital.folder / "invitation.json").read_bytes() == invitation.read_bytes()


def test_a_network_without_a_coordinator_is_told_in_one_line(two: Two) -> None:
    machines, hospital = two.machines, two.hospital
    machines.run("main", "docker stop fedssh-door-1")
    machines.run("hospital", "docker restart fedssh-bob-1 && rm -f /var/lib/fedssh/site/heard.json")
    until(lambda: "refused" in machines.run("hospital", "cat /var/lib/fedssh/site/heard.json || true"))
    error = hospital.deploy("up", code=4).error
    assert error.startswith("hospital-a: Bob got no release in 20 s: ") and "refused" in error
    two.operator.deploy("up")
    assert "nothing to do" in hospital.deploy("up").output


@pytest.mark.long
def test_new_data_reaches_alice(two: Two) -> None:
    """Who runs already, and would see the folder that was."""
    machines, hospital = two.machines, two.hospital
    site = f'[sites.hospital-a]\n{two.host("hospital")}data = "a"\ninvitation = "invitation.json"\n'
    hospital.inventory(site)
    assert "another release than this checkout's: hospital-a" in hospital.deploy("up").output
    hospital.deploy("upgrade")
    (hospital.folder / "a" / "3.npy").write_bytes(b"one more")
    steps = hospital.deploy("plan", "--json", code=10).json["steps"]
    assert [step["name"] for step in steps] == ["data"]
    hospital.deploy("up")
    until(lambda: "trains on 4 files" in machines.run("hospital", "docker logs fedssh-alice-1"))
    assert "nothing to do" in hospital.deploy("up").output


def test_down_keeps_data_of_a_given_machine_unless_it_is_purged(two: Two) -> None:
    machines, hospital = two.machines, two.hospital
    key = machines.run("hospital", "cat /var/lib/fedssh/site/site_key")
    assert hospital.deploy("down", code=2).error == "nobody is here to confirm it"
    assert "1 removed" in hospital.deploy("down", "--yes").output
    assert machines.run("hospital", "docker ps --all --quiet; docker image ls --quiet; ls -d /opt/fedssh || true") == ""
    assert machines.run("hospital", "cat /var/lib/fedssh/site/site_key") == key
    assert hospital.deploy("up", "--json").json["proof"] == {"hospital-a": "has release 0"}
    assert machines.run("hospital", "cat /var/lib/fedssh/site/site_key") == key
    assert "1 removed" in hospital.deploy("down", "--yes", "--purge").output
    assert machines.run("hospital", "ls -d /opt/fedssh /var/lib/fedssh || true") == ""
    assert machines.run("hospital", "ls /srv/xrays") == "1.npy\n"


@pytest.mark.long
def test_a_user_with_sudo_and_images_as_archives(two: Two, tmp_path: Path) -> None:
    machines, hospital = two.machines, two.hospital
    machines.run("hospital", "useradd --create-home --shell /bin/sh admin && cp -r /root/.ssh /home/admin/.ssh")
    machines.run("hospital", "chown -R admin /home/admin/.ssh")
    other = f'[sites.hospital-b]\n{two.host("hospital", "admin")}data = "b"\n'
    hospital.inventory(other, "sudo")
    error = hospital.deploy("up", code=2).error
    assert "admin may not become root there" in error
    install = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends sudo"
    machines.run("hospital", f"({install}) >/tmp/apt 2>&1 || true", timeout=180)
    if machines.run("hospital", "command -v sudo || true") == "":
        pytest.skip("no Debian mirror can be reached, so sudo is missing on the machine")
    machines.run("hospital", "echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin")
    ended = hospital.deploy("up", "--json", "--ship", "tar")
    assert [one["step"] for one in ended.json["did"] if one["size"] > 1_000_000] == ["images"]
    assert machines.run("hospital", "cat /var/lib/fedssh/site/site_key.pub").startswith("ssh-ed25519 ")
    assert "nothing to do" in hospital.deploy("up").output
    assert json.loads(hospital.deploy("status", "--json", code=1).output)["hosts"][0]["release"] == 1
    until(lambda: hospital.processes() == [], 20)
    assert "1 removed" in hospital.deploy("down", "--yes", "--purge").output

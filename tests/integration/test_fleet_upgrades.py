"""Another release on machines: what fails undoes itself; and backup, restore and down. See test_fleet.py.

The tests share a federation, in their order: each leaves it as it should be.
"""

from __future__ import annotations

import json
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyrage import decrypt, ssh

from tests.harness import machines as harness
from tests.harness.deployed import Deployed, deployed
from tests.harness.laptop import CLOUD, Laptop, checkout, impatient
from tests.harness.machines import Machines
from tests.harness.waiting import until

pytestmark = pytest.mark.docker
LONG = pytest.mark.long
COORDINATOR, SITE = "chest-coordinator", "chest-hospital-a"
HISTORY = "cd /var/lib/fedssh && sha256sum vault/* outbox/* door/*"


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    if why := harness.reason():
        pytest.skip(why)
    with Machines() as some:
        yield some


@pytest.fixture(scope="module")
def federation(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    first = impatient(checkout(tmp_path_factory.mktemp("versions") / "first"))
    with deployed(machines, first, tmp_path_factory.mktemp("laptop"), CLOUD) as made:
        yield made


def undone(federation: Deployed, history: str, rooms: dict[str, str], release: str) -> None:
    """The coordinator is as it was: release, history, nothing half-done; the site has not noticed."""
    assert federation.release(COORDINATOR) == release
    assert federation.run(COORDINATOR, HISTORY) == history
    assert (
        federation.run(COORDINATOR, "ls -d /var/lib/fedssh/upgrade /var/lib/fedssh/before-* 2>/dev/null || true") == ""
    )
    assert federation.started(SITE) == rooms
    assert "nothing to do" in federation.laptop.deploy("up").output
    until(lambda: federation.laptop.processes() == [], 20)


@pytest.mark.parametrize(
    ("charity", "error"),
    [
        ({"version": 2, "serve": "exits"}, "Charity does not stay up"),
        pytest.param({"version": 3, "serve": "is never ready"}, "Charity is not ready after 5 s", marks=LONG),
        pytest.param({"version": 4, "verify": "fails"}, "record 1 is not what the ledger says", marks=LONG),
    ],
)
def test_a_release_that_fails_puts_the_old_one_back(
    federation: Deployed, charity: dict[str, object], error: str
) -> None:
    history, rooms, release = (
        federation.run(COORDINATOR, HISTORY),
        federation.started(SITE),
        federation.release(COORDINATOR),
    )
    federation.laptop.version = federation.version(f"broken-{charity['version']}", charity=charity)
    ended = federation.laptop.deploy("upgrade", code=1)
    assert ended.error.startswith("coordinator: release ") and f", release {release} is back: " in ended.error
    assert error in ended.error
    federation.laptop.version = federation.first
    undone(federation, history, rooms, release)
    assert f"failed, {release} is back" in federation.run(COORDINATOR, "tail -n 3 /var/lib/fedssh/deploy.log")


@pytest.mark.long
def test_a_release_goes_on_by_itself_when_its_deployment_is_killed(federation: Deployed) -> None:
    before = federation.run(COORDINATOR, HISTORY)
    federation.laptop.version = federation.version("charity-5", charity={"version": 5})
    running = federation.laptop.start("upgrade")
    running.wait_for("coordinator: going to release")
    until(lambda: "upgrade" in federation.run(COORDINATOR, "ls /var/lib/fedssh"))
    assert running.end(signal.SIGKILL).code == -signal.SIGKILL
    until(lambda: "upgraded from" in federation.run(COORDINATOR, "tail -n 1 /var/lib/fedssh/deploy.log"), 30)
    assert "every host runs this release" in federation.laptop.deploy("upgrade").output
    assert federation.run(COORDINATOR, HISTORY) == before
    assert "nothing to do" in federation.laptop.deploy("up").output


@pytest.mark.long
def test_a_machine_that_is_killed_in_the_middle_goes_back(federation: Deployed) -> None:
    machines, good = federation.machines, federation.laptop.version
    history, rooms, release = (
        federation.run(COORDINATOR, HISTORY),
        federation.started(SITE),
        federation.release(COORDINATOR),
    )
    federation.laptop.version = federation.version("broken-3", charity={"version": 3, "serve": "is never ready"})
    running = federation.laptop.start("upgrade")
    until(lambda: "rubbish" in federation.run(COORDINATOR, "cat /var/lib/fedssh/vault/ledger.db"), 30)
    machines.kill(COORDINATOR)
    running.end(signal.SIGKILL)
    address = machines.boot(COORDINATOR).address
    for machine in federation.cloud.machines.values():
        if machine["label"] == COORDINATOR:
            machine["ipv4"] = [address]
    machines.wait_for_ssh(COORDINATOR)
    machines.wait_for_engine(COORDINATOR)
    federation.laptop.version = good
    assert "undo the upgrade that was interrupted" in federation.laptop.deploy("plan", code=10).output
    assert "undoing the upgrade that was interrupted" in federation.laptop.deploy("up").said
    undone(federation, history, rooms, release)


@pytest.mark.long
def test_the_way_back_leads_past_releases_that_failed(federation: Deployed) -> None:
    laptop, history = federation.laptop, federation.run(COORDINATOR, HISTORY)
    said = laptop.deploy("rollback", "--yes", "--only", "coordinator").output
    assert said == "coordinator runs release 1\n"
    assert laptop.deploy("upgrade", "--json").json["upgraded"] == ["coordinator"]
    assert federation.run(COORDINATOR, HISTORY) == history


@pytest.mark.long
def test_an_upgrade_whose_door_had_opened_is_not_undone(federation: Deployed) -> None:
    """The machine stops between the door's opening and the last word of the upgrade."""
    release = federation.release(COORDINATOR)
    federation.run(COORDINATOR, f"printf 'old=1 new={release} stage=opening\\n' > /var/lib/fedssh/upgrade")
    history = federation.run(COORDINATOR, HISTORY)
    federation.laptop.deploy("up")
    undone(federation, history, federation.started(SITE), release)


@pytest.mark.long
def test_a_sites_release_that_fails_is_put_back(federation: Deployed) -> None:
    release = federation.release(SITE)
    federation.laptop.version = federation.version(
        "bob-6", charity={"version": 5}, bob={"version": 6, "watch": "exits"}
    )
    ended = federation.laptop.deploy("upgrade", code=1)
    assert f", release {release} is back: bob is " in ended.error and "this version does not start" in ended.error
    federation.laptop.version = federation.version("charity-5", charity={"version": 5})
    assert federation.release(SITE) == release
    assert "nothing to do" in federation.laptop.deploy("up").output


def test_a_release_ships_what_is_new_and_three_are_kept(federation: Deployed) -> None:
    laptop, before = federation.laptop, federation.run(COORDINATOR, HISTORY)
    for number in (7, 8):
        version: dict[str, object] = {"version": number}
        laptop.version = federation.version(f"all-{number}", charity=version, door=version, alice=version, bob=version)
        found = laptop.deploy("upgrade", "--json").json
        assert found["upgraded"] == ["coordinator", "hospital-a"]
        assert 0 < found["shipped"] < 100_000
    for machine, rooms in ((COORDINATOR, ("charity", "door")), (SITE, ("alice", "bob"))):
        releases = federation.run(machine, "ls /opt/fedssh/releases").split()
        assert len(releases) == 3 and federation.release(machine) == max(releases, key=int)
        images = federation.run(machine, "docker image ls --format '{{.Repository}}'").split()
        assert sorted(images) == sorted(f"fedssh-{room}" for room in rooms for _ in range(3))
    assert federation.run(COORDINATOR, HISTORY) == before
    assert "nothing to do" in laptop.deploy("up").output


@pytest.mark.long
def test_back_to_the_release_before_with_todays_history(federation: Deployed) -> None:
    laptop, release = federation.laptop, int(federation.release(COORDINATOR))
    auditor = Laptop(federation.folder / "auditor", federation.first)
    (laptop.folder / "auditor.pub").write_text(f"{auditor.key}\n")
    laptop.inventory(CLOUD + '[auditors]\nme = "auditor.pub"\n', more=f'[backup]\nrecipients = ["{laptop.key}"]')
    laptop.deploy("up")
    before = federation.run(COORDINATOR, HISTORY)
    assert laptop.deploy("rollback", code=2).error == "nobody is here to confirm it"
    said = laptop.deploy("rollback", "--yes", "--only", "coordinator").output
    assert said == f"coordinator runs release {release - 1}\n"
    assert federation.run(COORDINATOR, HISTORY) == before
    assert "another release than this checkout's: coordinator" in laptop.deploy("up").output
    laptop.deploy("upgrade")
    assert int(federation.release(COORDINATOR)) >= release
    assert "nothing to do" in laptop.deploy("up").output


def test_a_backup_is_sealed_and_comes_back_onto_an_empty_machine(federation: Deployed, tmp_path: Path) -> None:
    laptop = federation.laptop
    before = {machine: files(federation, machine) for machine in (COORDINATOR, SITE)}
    found = laptop.deploy("backup", "--json").json["backups"]
    sealed = {name: Path(one["file"]) for name, one in found.items()}
    assert set(sealed) == {"coordinator", "hospital-a"} and laptop.holds("PRIVATE KEY") == []
    for name, file in sealed.items():
        content = file.read_bytes()
        assert content.startswith(b"age-encryption.org/v1\n-> ssh-ed25519 ") and file.parent.stat().st_mode & 0o77 == 0
        for word in (b"genesis", b"site_key", b"coordinator_key", b"image 1 of a", b"images that nobody"):
            assert word not in content
        opened = tmp_path / name
        opened.write_bytes(decrypt(content, [ssh.Identity.from_buffer(laptop.identity.read_bytes())]))
        with tarfile.open(opened) as archive:
            assert {"vault/coordinator_key", "site/site_key"} & set(archive.getnames())
    assert "nothing to do" in laptop.deploy("up").output

    wrong = Laptop(tmp_path / "wrong", federation.first).identity
    words = ("hospital-a", str(sealed["hospital-a"]), "--yes", "--identity")
    assert "cannot be opened with this key" in laptop.deploy("restore", *words, str(wrong), code=3).error
    cut = tmp_path / "cut.tar.age"
    cut.write_bytes(sealed["coordinator"].read_bytes()[:-100])
    error = laptop.deploy("restore", "coordinator", str(cut), "--yes", "--identity", str(laptop.identity), code=3).error
    assert error.startswith("cut.tar.age is cut off or damaged: ")
    assert before == {machine: files(federation, machine) for machine in (COORDINATOR, SITE)}

    for machine, name in ((COORDINATOR, "coordinator"), (SITE, "hospital-a")):
        federation.run(machine, "cd /var/lib/fedssh && rm -rf vault/* outbox/* door/* inbox/* site/* alice/* join/*")
        more = ("--yes", "--identity", str(laptop.identity))
        said = laptop.deploy("restore", name, str(sealed[name]), *more).output
        assert f"{name} is restored; what was there lies in /var/lib/fedssh/aside-" in said
    assert before == {machine: files(federation, machine) for machine in (COORDINATOR, SITE)}
    assert "nothing to do" in laptop.deploy("up").output


def files(federation: Deployed, machine: str) -> str:
    """What cannot be made again on a machine, with owners and modes; not what Bob has just heard."""
    names = "find vault outbox door holdout site alice join -type f ! -name heard.json 2>/dev/null | sort"
    return federation.run(
        machine, f"cd /var/lib/fedssh && for one in $({names}); do stat -c '%n %u:%g %a' $one; sha256sum $one; done"
    )


@pytest.mark.long
def test_a_backup_that_does_not_verify_changes_nothing(federation: Deployed) -> None:
    laptop, before = federation.laptop, files(federation, COORDINATOR)
    ledger = "/var/lib/fedssh/vault/ledger.db"
    federation.run(COORDINATOR, f"cp --preserve {ledger} /root/whole && echo '{{}}' >> {ledger}")
    file = laptop.deploy("backup", "--only", "coordinator", "--json").json["backups"]["coordinator"]["file"]
    federation.run(COORDINATOR, f"cp --preserve /root/whole {ledger} && rm /root/whole")
    words = ("coordinator", file, "--yes", "--identity", str(laptop.identity))
    assert "what was here is back; the backup does not verify: " in laptop.deploy("restore", *words, code=1).error
    assert files(federation, COORDINATOR) == before
    assert "nothing to do" in laptop.deploy("up").output


def test_down_takes_what_is_ours_and_nothing_else(federation: Deployed) -> None:
    laptop, cloud = federation.laptop, federation.cloud
    foreign = cloud.add_machine("chest-of-another", ["fedssh-chest-of-another"])
    volume = cloud.add_volume("chest-data", ["fedssh-chest"])
    ended = laptop.deploy("down", code=2)
    assert ended.error == "nobody is here to confirm it" and ended.hint == "give --yes"
    assert "machine chest-coordinator" in ended.said and "volume chest-data" in ended.said
    assert "2 removed" in laptop.deploy("down", "--yes", "--only", "hospital-a").output
    assert {machine["label"] for machine in cloud.machines.values()} == {COORDINATOR, "chest-of-another"}
    assert SITE not in laptop.pins and COORDINATOR in laptop.pins
    said = laptop.deploy("cost").output
    assert COORDINATOR in said and "at most $12.00 a month" in said
    assert "3 removed, nothing is left" in laptop.deploy("down", "--yes").output
    assert list(cloud.machines) == [foreign["id"]] and cloud.firewalls == {} and volume["id"] not in cloud.volumes
    assert "there was nothing" in laptop.deploy("down", "--yes").output
    assert laptop.pins == {} and cloud.violations == []
    assert json.loads(laptop.deploy("cost", "--json").output)["machines"] == []

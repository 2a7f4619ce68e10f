"""`fedssh doctor`: what is found, and what is said of it; /proc and control groups are a folder of the test."""

from __future__ import annotations

import datetime
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.charity.folders import Folders
from fedssh.doctor import holdout, machine, network, papers, versions
from fedssh.doctor.examine import examine, in_time
from fedssh.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding, exit_code
from fedssh.doctor.subject import Subject, find_role
from fedssh.keys import PrivateKey
from scripts.demo.federation import free_port

NOW = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
MISSING = (127, "no such program")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    (tmp_path / "site").mkdir()
    return Subject(tmp_path / "site", "bob", root=tmp_path / "root")


def of(subject: Subject, **changes: Any) -> Subject:
    return Subject(**(vars(subject) | changes))


def lay(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def programs(**answers: tuple[int, str]) -> machine.Run:
    """Programs that answer; any other is missing."""
    return lambda words: answers.get("_".join(words[:2]), answers.get(words[0], MISSING))


# Exit codes


@pytest.mark.parametrize(
    ("states", "untrusted", "code"),
    [
        ([], False, 0), ([OK, WARNING, SKIPPED], False, 0), ([OK, FAILED], False, 1), ([FAILED, FAILED], True, 3),
        ([OK, WARNING], True, 0),
    ],
)  # fmt: skip
def test_exit_codes(states: list[str], untrusted: bool, code: int) -> None:
    assert exit_code(Finding("x", state, "", untrusted=untrusted) for state in states) == code


# Memory

CGROUP2 = "0::/system.slice/bob.service\n"
CGROUP1 = "4:memory:/docker/x\n1:name=systemd:/docker/x\n"


@pytest.mark.parametrize(
    ("role", "total_mb", "files", "state", "says"),
    [
        ("site", 1_005, {}, FAILED, "1,005 MB; a site with Alice needs 1,060 MB"),
        ("site", 2_048, {}, OK, "2,048 MB; a site"),
        ("bob", 1_005, {}, OK, "1,005 MB; Bob needs 64 MB"),
        ("coordinator", 1_005, {}, OK, "a coordinator needs 900 MB"),
        ("coordinator", 500, {}, FAILED, "500 MB"),
        ("auditor", 63, {}, FAILED, "an auditor needs 64 MB"),
        ("site", 8_000, {"proc/self/cgroup": CGROUP2,
                         "sys/fs/cgroup/system.slice/bob.service/memory.max": "max\n",
                         "sys/fs/cgroup/system.slice/memory.max": "1000000000\n"}, FAILED, "1,000 MB, of 8,000 MB;"),
        ("bob", 8_000, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "67108864\n"}, OK, "67 MB, of 8,000"),
        ("bob", 8_000, {"proc/self/cgroup": CGROUP1,
                        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "9223372036854771712\n",
                        "sys/fs/cgroup/memory/memory.limit_in_bytes": "50000000\n"}, FAILED, "50 MB, of 8,000 MB;"),
        ("bob", 8_000, {"proc/self/cgroup": CGROUP1,
                        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, OK, "8,000 MB; Bob"),
        ("bob", 8_000, {"proc/self/cgroup": "nonsense\n0::\n:::\n"}, OK, "8,000 MB; Bob"),
    ],
)  # fmt: skip
def test_memory(subject: Subject, role: str, total_mb: int, files: dict[str, str], state: str, says: str) -> None:
    lay(subject.root, {"proc/meminfo": f"MemTotal: {total_mb * 1_000_000 // 1024 + 1} kB\nMemFree: 1 kB\n", **files})
    found = machine.memory(of(subject, role=role))
    assert found.state == state and says in found.found
    assert bool(found.remedy) == (state == FAILED)


def test_memory_where_only_the_door_is_installed(subject: Subject) -> None:
    lay(subject.root, {"proc/meminfo": "MemTotal: 131072 kB\n"})
    coordinator = of(subject, role="coordinator")
    assert machine.memory(coordinator).state == FAILED
    found = machine.memory(of(coordinator, door_alone=True))
    assert found.state == OK and found.found.endswith("134 MB; the door needs 128 MB")


def test_memory_that_is_not_told(subject: Subject) -> None:
    assert machine.memory(subject).state == SKIPPED
    lay(subject.root, {"proc/meminfo": "MemTotal: lots\n"})
    assert machine.memory(subject).state == SKIPPED


# Clock


def record(hours: float, **more: Any) -> str:
    time = (NOW + datetime.timedelta(hours=hours)).isoformat().replace("+00:00", "Z")
    return json.dumps({"record": json.dumps({"time": time, **more}), "sequence": 7}) + "\n"


@pytest.mark.parametrize(
    ("answers", "state", "says"),
    [
        ({"timedatectl": (0, "yes")}, OK, "synchronised, says timedatectl"),
        ({"timedatectl": (0, "no")}, WARNING, "not synchronised, says timedatectl"),
        ({"timedatectl": (1, "no bus"), "chronyc": (0, "Leap status     : Normal\n")}, OK, "says chronyc"),
        (
            {"chronyc": (0, "Stratum : 0\nLeap status     : Not synchronised\n")},
            WARNING,
            "not synchronised, says chronyc",
        ),
    ],
)
def test_a_clock_that_is_set_or_not(
    subject: Subject, answers: dict[str, tuple[int, str]], state: str, says: str
) -> None:
    found = machine.clock(subject, programs(**answers), NOW)
    assert found.state == state and says in found.found
    assert found.found.startswith("2026-05-01 12:00:00 UTC")


def test_a_clock_of_which_only_the_kernel_tells(subject: Subject) -> None:
    found = machine.clock(subject, programs(), NOW)
    assert "says the kernel" in found.found or found.state == SKIPPED


@pytest.mark.parametrize(
    ("files", "state", "says"),
    [
        ({"genesis.json": record(-48)}, OK, ", 2 days after record 7; "),
        (
            {"genesis.json": record(-1), "receipts.jsonl": '{"time":"2026-05-01T11:50:00Z"}\n'},
            OK,
            "10 minutes after the last",
        ),
        ({"genesis.json": record(0.01)}, OK, ", 0 minutes after record 7"),
        ({"genesis.json": record(1)}, FAILED, "lies before record 7 of 2026-05-01 13:00:00"),
        ({"outbox/ledger.jsonl": record(-2) + record(2)}, FAILED, "lies before record 7 of 2026-05-01 14:00:00"),
        (
            {"outbox/ledger.jsonl": "not JSON\n", "genesis.json": "[]", "receipts.jsonl": "{}\n"},
            OK,
            "UTC; synchronised",
        ),
        ({"genesis.json": '{"record":"{\\"time\\":7}"}', "receipts.jsonl": '{"time":"soon"}'}, OK, "UTC; synchronised"),
    ],
)
def test_a_clock_before_what_is_known_to_have_happened_is_wrong(
    subject: Subject, files: dict[str, str], state: str, says: str
) -> None:
    lay(subject.state, files)
    found = machine.clock(subject, programs(timedatectl=(0, "yes")), NOW)
    assert found.state == state and says in found.found
    assert bool(found.remedy) == (state == FAILED)


# Disk


def test_a_disk_with_room(subject: Subject) -> None:
    found = machine.disk(of(subject, state=subject.state / "not" / "made" / "yet"))
    free = os.statvfs(subject.state)
    enough = free.f_bavail * free.f_frsize >= 1_000_000_000
    assert found.state == (OK if enough else FAILED) and f"free in {subject.state}, expected 1,000 MB" in found.found


def test_a_disk_of_a_kind_that_has_no_hard_links(subject: Subject) -> None:
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / {subject.state.parent} rw - vfat /dev/b rw\nnonsense\n"
    lay(subject.root, {"proc/self/mountinfo": mounts})
    found = machine.disk(subject)
    assert found.state == FAILED and f"{subject.state} is vfat, which has no hard links" in found.found
    lay(subject.root, {"proc/self/mountinfo": mounts.replace("vfat", "xfs")})
    assert "(xfs)" in machine.disk(subject).found


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"f_bavail": 100}, "0 MB free in"),
        ({"f_favail": 12}, "12 files more fit into"),
        ({"f_flag": os.ST_RDONLY}, "is read-only"),
    ],
)
def test_a_disk_that_is_full_or_read_only(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, fields: dict[str, int], says: str
) -> None:
    class Room:
        f_bavail, f_frsize, f_files, f_favail, f_flag = 10**9, 4096, 10**6, 10**6, 0

    for name, value in fields.items():
        setattr(Room, name, value)
    monkeypatch.setattr(os, "statvfs", lambda place: Room)
    found = machine.disk(subject)
    assert found.state == FAILED and says in found.found and found.remedy


# Engine


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({}, "no docker command"),
        ({"docker_version": (1, "permission denied while trying to connect")}, "may not use the Docker engine"),
        (
            {"docker_version": (1, "Cannot connect to\nthe Docker daemon")},
            "answers: Cannot connect to the Docker daemon",
        ),
        ({"docker_version": (124, "docker did not answer in 5 s")}, "did not answer in 5 s"),
        ({"docker_version": (0, "26.1"), "docker_compose": (1, "unknown")}, "Docker 26.1 without compose v2"),
        ({"docker_version": (0, "26.1"), "docker_compose": (0, "1.29.2")}, "Docker 26.1 without compose v2"),
    ],
)
def test_an_engine_that_cannot_be_used(subject: Subject, answers: dict[str, tuple[int, str]], says: str) -> None:
    for engine, state in ((False, WARNING), (True, FAILED)):
        found = machine.engine(of(subject, engine=engine), programs(**answers))
        assert found.state == state and says in found.found and found.remedy


def test_an_engine(subject: Subject) -> None:
    answers = {"docker_version": (0, "26.1"), "docker_compose": (0, "2.27.0")}
    assert machine.engine(subject, programs(**answers)) == Finding("engine", OK, "Docker 26.1, compose 2.27.0")


def test_in_a_container_there_is_no_engine_to_be_used(subject: Subject) -> None:
    lay(subject.root, {".dockerenv": ""})
    assert machine.engine(subject, programs()) == Finding("engine", SKIPPED, "this is a container itself")
    assert machine.engine(of(subject, engine=True), programs()).state == FAILED


def test_a_program_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROBE_SECONDS", 0.2)
    assert machine.run(["sleep", "30"]) == (124, "sleep did not answer in 0.2 s")
    assert machine.run(["no-such-program-here"])[0] == 127
    assert machine.run(["sh", "-c", "echo no >&2; exit 3"]) == (3, "no")


# Versions


@pytest.mark.parametrize(
    ("python", "lock", "state", "says"),
    [
        ((3, 10), None, FAILED, "Python 3.10, expected 3.11 to 3.13"),
        ((3, 14), None, WARNING, "Python 3.14 was not tested"),
        ((3, 12), None, SKIPPED, "no lock lies beside the code"),
        (
            (3, 12),
            "click=={click} \\\n    --hash=sha256:0\nno-such-package==1\n",
            OK,
            "1 of 2 packages of locks/bob.txt",
        ),
        ((3, 12), "click==0.1 ; python_version < '3.12'\nclick=={click}\n", OK, "1 of 1 packages"),
        ((3, 12), "click==0.1\n", WARNING, "click {click} (lock 0.1)"),
    ],
)
def test_versions(
    subject: Subject, tmp_path: Path, python: tuple[int, int], lock: str | None, state: str, says: str
) -> None:
    from importlib.metadata import version

    if lock is not None:
        (tmp_path / "bob.txt").write_text(lock.format(click=version("click")))
    found = versions.versions(subject, tmp_path, python)
    assert found.state == state and says.format(click=version("click")) in found.found


# Images


@pytest.mark.parametrize(
    ("counts", "state", "says"),
    [
        ({0: 135, 1: 389}, OK, "524 images (135 of class 0, 389 of class 1); an accuracy of 90% is known to ±2.6 %"),
        ({0: 150, 1: 149}, WARNING, "299 images"),
        ({0: 50, 1: 49}, FAILED, "known to ±6.0 %"),
        ({0: 5000}, FAILED, "none of class 1"),
        ({}, FAILED, "none of classes 0, 1"),
    ],
)
def test_what_a_holdout_is_good_for(counts: dict[int, int], state: str, says: str) -> None:
    found = holdout.judged(Path("x.npz"), "val", Counter(counts), 2, recorded=False)
    assert found.state == state and says in found.found and bool(found.remedy) == (state != OK)


def images(path: Path, number: int = 400, value: int = 200) -> Path:
    labels = np.arange(number) % 2
    pixels = np.full((number, 4, 4), value, np.uint8)
    np.savez(path, train_images=pixels[:9], train_labels=labels[:9], val_images=pixels, val_labels=labels)
    return path


def begun(tmp_path: Path, subject: Subject) -> Subject:
    """A coordinator whose genesis recorded the images."""
    from fedssh.charity.judge.scorer import fingerprint
    from fedssh.models.data.images import load

    path = images(tmp_path / "xrays.npz")
    folders = Folders(tmp_path / "coordinator")
    folders.make()
    folders.settings.write_text(json.dumps({"data": str(path), "classes": None, "max_value": None}))
    val = load(path, (4, 4, 1), 2, "val")
    recorded = {"examples": len(val), "sha256": fingerprint(val)}
    genesis = {"spec": {"input": [4, 4, 1], "classes": 2}, "holdout": recorded}
    folders.published.write_text(json.dumps({"record": json.dumps(genesis), "sequence": 1}) + "\n")
    return of(subject, state=folders.state, role="coordinator")


def test_the_holdout_is_the_one_that_was_recorded(subject: Subject, tmp_path: Path) -> None:
    coordinator = begun(tmp_path, subject)
    found = holdout.holdout(coordinator)
    assert found.state == OK and "val: 400 images (200 of class 0, 200 of class 1), as recorded" in found.found
    images(tmp_path / "xrays.npz", value=201)
    found = holdout.holdout(coordinator)
    assert found.state == FAILED and "recorded are 400 with " in found.found
    (tmp_path / "xrays.npz").unlink()
    found = holdout.holdout(coordinator)
    assert found.state == FAILED and "xrays.npz is not there" in found.found
    assert holdout.holdout(of(coordinator, data=images(tmp_path / "copy.npz"))).state == OK


def test_images_of_a_site(subject: Subject, tmp_path: Path) -> None:
    assert holdout.holdout(subject).state == SKIPPED
    found = holdout.holdout(of(subject, data=images(tmp_path / "site.npz")))
    assert found.state == FAILED and "train: 9 images" in found.found
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4 no")
    said = in_time("holdout", holdout.holdout, of(subject, data=tmp_path / "damaged.npz"), 20)
    assert [one.state for one in said] == [FAILED]


# Invitations


def invited(keys: dict[str, PrivateKey], **changes: Any) -> dict[str, Any]:
    return {
        "fedssh": 1, "site": "alice-1", "role": "site", "user": "charity", "host": "127.0.0.1", "port": 1,
        "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
        "coordinator": keys["coordinator"].public.line, "site_key": keys["alice-1"].public.fingerprint, **changes,
    }  # fmt: skip


def give_key(subject: Subject, key: PrivateKey) -> None:
    (subject.state / "site_key").write_bytes(key.pem)
    (subject.state / "site_key").chmod(0o600)


@pytest.mark.parametrize(
    ("changes", "state", "says"),
    [
        ({}, OK, "alice-1, site key SHA256:"),
        ({"site_key": "SHA256:another"}, FAILED, "the invitation is for the site key 'SHA256:another', this site has"),
        ({"role": "auditor"}, FAILED, "the invitation is for the role 'auditor'"),
        ({"port": 0}, FAILED, "0 is not a port"),
    ],
)
def test_an_invitation(
    subject: Subject, keys: dict[str, PrivateKey], tmp_path: Path, changes: dict[str, Any], state: str, says: str
) -> None:
    give_key(subject, keys["alice-1"])
    (tmp_path / "invitation").write_text(json.dumps(invited(keys, **changes)))
    found = papers.invitation(of(subject, invitation=tmp_path / "invitation"))
    assert found.state == state and says in found.found and bool(found.remedy) == (state == FAILED)


def test_an_invitation_that_cannot_be_read_or_compared(
    subject: Subject, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    assert "there is no site key in" in papers.invitation(subject).found
    give_key(subject, keys["alice-1"])
    assert "not joined yet" in papers.invitation(subject).found
    for path, says in ((tmp_path / "none", "cannot be read"), (tmp_path, "cannot be read")):
        found = papers.invitation(of(subject, invitation=path))
        assert found.state == FAILED and says in found.found
    (subject.state / "site.json").write_text("{damaged")
    found = papers.invitation(subject)
    assert found.state == FAILED and "site.json is damaged" in found.found
    (subject.state / "site_key").chmod(0o644)
    assert "can be read by others" in papers.invitation(subject).found
    (subject.state / "site_key").unlink()
    (subject.state / "terms.json").write_text("{}")
    assert papers.invitation(subject).state == SKIPPED


# The coordinator's port


def test_a_port_that_is_free_held_or_wrong(subject: Subject) -> None:
    port = free_port()
    coordinator = of(subject, role="coordinator", listen=f"127.0.0.1:{port}", timeout=1.0)
    assert [one.state for one in network.own_port(coordinator)] == [OK, WARNING]
    (subject.state / "door").mkdir()
    (subject.state / "door/host_key.pub").write_text("ssh-ed25519 AAAA door\n")
    assert [one.state for one in network.own_port(coordinator)] == [OK, OK]
    with socket.create_server(("127.0.0.1", port)):
        found = list(network.own_port(coordinator))
    assert [one.state for one in found] == [FAILED] and "(address already in use), and no door answers" in found[
        0
    ].found
    for listen in ("127.0.0.1", "127.0.0.1:0", "x:99999"):
        assert [one.state for one in network.own_port(of(coordinator, listen=listen))] == [FAILED]


def test_a_port_that_this_account_may_not_have(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, port: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(network, "_bind", refuse)
    found = next(iter(network.own_port(of(subject, listen="0.0.0.0:22"))))
    assert found.state == FAILED and "may not listen on port 22" in found.found


# All of them


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (["vault/"], "coordinator"), (["outbox/"], "coordinator"), (["door/"], "coordinator"), (["terms.json"], "site"),
    ],
)  # fmt: skip
def test_a_folder_tells_its_role(tmp_path: Path, names: list[str], role: str) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    assert find_role(tmp_path, None) == role


def test_an_invitation_tells_the_role_of_an_auditor(tmp_path: Path) -> None:
    (tmp_path / "invitation").write_text('{"role":"auditor"}')
    assert find_role(tmp_path / "none", tmp_path / "invitation") == "auditor"
    (tmp_path / "invitation").write_text("[]")
    assert find_role(tmp_path / "none", tmp_path / "invitation") in ("site", "bob")


def test_an_invitation_that_nobody_writes_into_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "invitation")
    words = ["doctor", "--state", str(tmp_path), "--invitation", str(tmp_path / "invitation"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fedssh.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )
    port = next(check for check in json.loads(done.stdout)["checks"] if check["check"] == "port")
    assert done.returncode == 1 and port["found"].endswith("invitation cannot be read: it is no file")


def test_a_check_that_hangs_fails_or_lacks_its_library_is_a_finding(subject: Subject) -> None:
    over = threading.Event()

    def hang(subject: Subject) -> Finding:
        over.wait(20)
        return Finding("x", OK, "")

    def damaged(subject: Subject) -> Finding:
        raise KeyError("spec")

    def missing(subject: Subject) -> Finding:
        raise ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image")

    start = time.monotonic()
    assert in_time("x", hang, subject, 0.1) == [
        Finding("x", FAILED, "it did not end in 0 s", "is a disk or a network hanging?")
    ]
    assert time.monotonic() - start < 5
    over.set()
    assert in_time("x", damaged, subject, 5)[0].found == "KeyError: 'spec'"
    assert in_time("x", missing, subject, 5)[0] == Finding(
        "x", SKIPPED, "PIL.Image is not installed here; it is in the extra charity"
    )


@pytest.mark.parametrize("role", ["site", "bob", "coordinator", "auditor"])
def test_every_role_on_a_machine_where_nothing_is_yet(subject: Subject, role: str) -> None:
    found = list(examine(of(subject, state=subject.state / "none", role=role, listen=f"127.0.0.1:{free_port()}")))
    names = [finding.check for finding in found]
    assert {"versions", "clock", "disk", "memory", "engine", "port", "host key", "holdout"} <= set(names)
    assert ("invitation" in names) == (role != "coordinator")
    assert not any(finding.found.startswith(("KeyError", "TypeError", "AttributeError")) for finding in found)
    assert all(finding.remedy for finding in found if finding.state in (WARNING, FAILED))


DAMAGED = ("site.json", "via.json", "known_hosts", "site_key", "genesis.json", "receipts.jsonl", "seen.json",
           "vault/charity.json", "outbox/ledger.jsonl", "door/host_key.pub")  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("content", [b"", b"\xff\x00\n", b"[]", b'{"record":"{}"}\n', b"null\n", b"[" * 5000])
def test_a_damaged_file_is_a_finding(subject: Subject, keys: dict[str, PrivateKey], name: str, content: bytes) -> None:
    give_key(subject, keys["alice-1"])
    (subject.state / "site.json").write_text(json.dumps(invited(keys) | {"name": "alice-1"}))
    (subject.state / name).parent.mkdir(exist_ok=True)
    (subject.state / name).write_bytes(content)
    coordinator = "/" in name
    role, listen = "coordinator" if coordinator else "bob", f"127.0.0.1:{free_port()}"
    found = list(examine(of(subject, role=role, listen=listen, timeout=1.0)))
    assert len(found) >= 8
    if not coordinator:  # no door answers at port 1
        assert exit_code(found) == 1


WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv[1].split(","))  # none of them can be imported
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in sys.argv[1].split(",") else real(name, *more)
sys.argv[1:] = sys.argv[2:]
from fedssh.cli import main
main()
"""


@pytest.mark.parametrize(
    ("missing", "role", "skipped"),
    [
        ("paramiko,python_socks,numpy,keras,tensorflow,PIL,asyncssh", "bob", set()),
        ("cryptography,paramiko,pyrage,numpy,keras,PIL,safetensors", "site", {"invitation"}),
        ("numpy,PIL,keras,tensorflow,asyncssh,paramiko", "coordinator", {"holdout"}),
    ],
)
def test_with_any_of_the_extras(
    subject: Subject, keys: dict[str, PrivateKey], tmp_path: Path, missing: str, role: str, skipped: set[str]
) -> None:
    give_key(subject, keys["alice-1"])
    (subject.state / "site.json").write_text(json.dumps(invited(keys) | {"name": "alice-1"}))
    words = ["doctor", "--state", str(subject.state), "--role", role, "--json", "--timeout", "1"]
    words += ["--listen", f"127.0.0.1:{free_port()}"]
    if role == "coordinator":
        words += ["--data", str(images(tmp_path / "xrays.npz"))]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert skipped <= {check["check"] for check in said["checks"] if check["state"] == SKIPPED}
    assert done.returncode == said["exit_code"]
    if role == "bob":
        port = next(check for check in said["checks"] if check["check"] == "port")
        assert port["state"] == FAILED and "127.0.0.1:1 cannot be reached" in port["found"]


def test_a_way_out_without_the_library_for_it_is_said(subject: Subject, keys: dict[str, PrivateKey]) -> None:
    (subject.state / "site.json").write_text(json.dumps(invited(keys) | {"name": "alice-1"}))
    words = ["doctor", "--state", str(subject.state), "--role", "bob", "--via", "http://site:s3cret@127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "paramiko", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "a way out is said, and paramiko is not installed" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_help_comes_without_anything_heavy_and_ends_with_an_example() -> None:
    probe = (
        "import sys; from fedssh.cli import main\ntry: main()\nfinally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "doctor", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.rstrip().splitlines()
    assert len(lines) <= 40 and lines[-1].startswith("  Example:  fedssh doctor ")
    assert not {"keras", "numpy", "paramiko", "python_socks", "cryptography"} & set(done.stderr.split())

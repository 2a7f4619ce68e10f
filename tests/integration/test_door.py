"""One contract for both doors: stock ssh, stock `scp -O` and paramiko against sshd and against the embedded door."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from asyncio.base_subprocess import BaseSubprocessTransport
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest
from scp import SCPClient, SCPException

from fedssh.door.admission import DoorSettings
from fedssh.door.embedded import serve_embedded
from fedssh.forms import canonical
from fedssh.history.report import page
from fedssh.keys import PrivateKey
from fedssh.manifest import new_id, now
from fedssh.signature import LEDGER, sign
from scripts.demo.federation import free_port
from tests.harness.waiting import until

MAX_BYTES = 8 << 20
HASH = "ab" * 32
BUNDLE = re.compile(r"\d{20}-[0-9a-f]{8}\.bundle")


@dataclass
class Vault:
    """What Charity's vault puts into the outbox, written by hand."""

    state: Path
    keys: dict[str, PrivateKey]
    sites: dict[str, str] = field(default_factory=lambda: {"alice-1": "site", "alice-2": "site", "auditor": "auditor"})
    records: list[dict[str, Any]] = field(default_factory=list)
    previous: str = "0" * 64

    def key_of(self, site: str) -> str:
        return self.keys["stranger" if site == "auditor" else site].public.line

    def begin(self) -> None:
        outbox = self.state / "outbox"
        (outbox / "releases").mkdir(parents=True)
        (self.state / "vault").mkdir()
        coordinator = self.keys["coordinator"].public.line
        (outbox / "coordinator_key.pub").write_text(coordinator + "\n")
        metrics = {"loss": 0.7, "accuracy": 0.6, "auc": 0.65, "confusion": [[3, 2], [2, 3]]}
        spec = {"name": "cnn", "depth": 4}
        plan = {"batch_size": 32, "epochs": 100}
        self.append("genesis", federation="lungs", coordinator=coordinator, spec=spec, architecture=HASH, plan=plan,
                    model={"sha256": HASH, "size": 9}, metrics=metrics, policy="best", schedule="free", sessions=None,
                    holdout={"sha256": HASH, "examples": 10})  # fmt: skip
        for site, role in self.sites.items():
            self.append("site-added", site=site, role=role, key=self.key_of(site))
        self.enrol()

    def enrol(self, *names: str) -> None:
        """Let exactly these log in; everybody when nobody is named."""
        chosen = names or tuple(self.sites)
        entries = [{"site": name, "role": self.sites[name], "key": self.key_of(name)} for name in chosen]
        self.replace(self.state / "outbox" / "sites.json", canonical({"sites": entries}))

    def append(self, event: str, **fields: Any) -> bytes:
        record = {"sequence": len(self.records) + 1, "previous": self.previous, "event": event, "time": now(), **fields}
        text = canonical(record)
        self.previous = hashlib.sha256(text).hexdigest()
        self.records.append(record)
        signature = sign(text, self.keys["coordinator"], LEDGER)
        whole = {"sequence": record["sequence"], "hash": self.previous, "record": text.decode(), "signature": signature}
        line = canonical(whole) + b"\n"
        with open(self.state / "outbox" / "ledger.jsonl", "ab") as file:
            file.write(line)
        return line

    def judge(self, site: str, submission: str, reason: str = "accuracy 0.7 beats 0.6") -> bytes:
        line = self.append("accepted", site=site, submission=submission, session=1, epoch=3, examples=40, builds_on=1,
                           claim={"loss": 0.4, "accuracy": 0.8}, metrics={"loss": 0.5, "accuracy": 0.7}, against=1,
                           model={"sha256": HASH, "size": 9}, current_metrics={"loss": 0.7, "accuracy": 0.6},
                           reason=reason, architecture=HASH)  # fmt: skip
        self.replace(self.state / "outbox" / "verdicts" / site / f"{submission}.json", line)
        return line

    def release(self, sequence: int, data: bytes) -> None:
        self.replace(self.state / "outbox" / "releases" / f"{sequence:08d}.bundle", data)

    @staticmethod
    def replace(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.rename(path)

    def inbox(self, site: str = "alice-1") -> list[Path]:
        folder = self.state / "inbox" / site
        return sorted(folder.iterdir()) if folder.exists() else []

    def empty_inbox(self) -> None:
        shutil.rmtree(self.state / "inbox", ignore_errors=True)


@dataclass
class Door:
    """A running door and how to reach it with each client."""

    kind: str
    vault: Vault
    port: int
    user: str
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path()

    def start(self, wait: bool = True) -> None:
        embedded = ["--embedded"] if self.kind == "embedded" else []
        limits = ["--max-bytes", str(MAX_BYTES), "--quota-bundles", "4", "--quota-bytes", str(3 * MAX_BYTES)]
        command = [sys.executable, "-m", "fedssh.charity.cli", "door", "--state", str(self.vault.state), *embedded]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{self.port}", *limits],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            until(self.answers, 20, self.log.read_text)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
            return client.recv(4) == b"SSH-"
        return False

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        assert self.process.wait(15) == 0

    def options(self, site: str) -> list[str]:
        known = self.log.with_name("known_hosts")
        public = (self.vault.state / "door" / "host_key.pub").read_text()
        known.write_text(f"[127.0.0.1]:{self.port} {public}")
        key = self.vault.keys["stranger" if site in ("auditor", "nobody") else site].path
        told = {"UserKnownHostsFile": known, "StrictHostKeyChecking": "yes", "IdentitiesOnly": "yes"}
        told |= {"BatchMode": "yes", "LogLevel": "ERROR"}
        return ["-F", "none", "-i", str(key), *(f"-o{name}={value}" for name, value in told.items())]

    def ssh(
        self, *words: str, site: str = "alice-1", flags: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["ssh", *self.options(site), "-p", str(self.port), *flags, f"{self.user}@127.0.0.1", *words]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)

    def scp(self, *words: str, site: str = "alice-1", target: str = "") -> subprocess.CompletedProcess[bytes]:
        command = ["scp", "-O", *self.options(site), "-P", str(self.port), *words, f"{self.user}@127.0.0.1:{target}"]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)

    @contextlib.contextmanager
    def client(self, site: str = "alice-1") -> Iterator[paramiko.Transport]:
        transport = paramiko.Transport(("127.0.0.1", self.port))
        try:
            transport.start_client(timeout=10)
            transport.auth_publickey(self.user, paramiko.RSAKey.from_private_key_file(str(self.vault.keys[site].path)))
            yield transport
        finally:
            transport.close()

    def commands(self) -> list[int]:
        """The forced commands that run now."""
        return [pid for pid, line in processes() if b"fedssh.door.command" in line and b"-S" in line
                and os.fsencode(self.vault.state) in line and line.startswith(os.fsencode(sys.executable))]  # fmt: skip


def processes() -> Iterator[tuple[int, bytes]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(folder.name), (folder / "cmdline").read_bytes()


KINDS = [pytest.param("sshd", marks=pytest.mark.sshd), "embedded"]


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, keys: dict[str, PrivateKey]
) -> Iterator[Door]:
    if shutil.which("ssh") is None or shutil.which("scp") is None:
        pytest.skip("no ssh and scp (on Debian and Ubuntu: apt install openssh-client)")
    door = make_door(request.param, tmp_path_factory.mktemp("door"), keys)
    door.vault.begin()
    door.start()
    yield door
    door.stop()


def make_door(kind: str, folder: Path, keys: dict[str, PrivateKey]) -> Door:
    user = pwd.getpwuid(os.getuid()).pw_name if kind == "sshd" else "charity"
    return Door(kind, Vault(folder / "state", keys), free_port(), user, log=folder / "door.log")


@pytest.fixture
def door(served: Door) -> Iterator[Door]:
    served.vault.empty_inbox()
    yield served
    served.vault.enrol()


# Reading

READS = (
    "history",
    "history --last 2",
    "show 1",
    "diff 1 2",
    "best",
    "best 1",
    "tags",
    "sites",
    "nodes",
    "status",
    "verify",
    "help",
)


@pytest.mark.parametrize("verb", READS)
@pytest.mark.parametrize("site", ["alice-1", "auditor"])
def test_sites_and_auditors_read_the_ledger(door: Door, verb: str, site: str) -> None:
    text = door.ssh(verb, site=site)
    assert (text.returncode, text.stderr) == (0, b""), text
    assert text.stdout.endswith(b"\n")
    assert text.stdout.decode().replace("\n", "").isprintable()
    value = door.ssh(verb, "--json", site=site)
    assert (value.returncode, value.stderr) == (0, b"")
    assert json.loads(value.stdout)


def test_the_export_is_the_signed_ledger(door: Door) -> None:
    ledger = (door.vault.state / "outbox" / "ledger.jsonl").read_bytes().splitlines()
    exported = door.ssh("history", "--export").stdout.splitlines()
    assert [json.loads(line) for line in exported] == [json.loads(line) for line in ledger]
    later = door.ssh("history", "--export", "--after", "2").stdout.splitlines()
    assert [json.loads(line)["sequence"] for line in later] == [json.loads(line)["sequence"] for line in ledger[2:]]


@pytest.mark.parametrize("site", ["alice-1", "auditor"])
def test_the_page_holds_the_signed_ledger(door: Door, site: str) -> None:
    """tests/integration/test_report.py opens such pages; here it comes through the door, whole and unchanged."""
    shown = door.ssh("report", site=site)
    assert (shown.returncode, shown.stderr) == (0, b"")
    with (door.vault.state / "outbox" / "ledger.jsonl").open("rb") as ledger:
        assert shown.stdout == b"".join(page(ledger))
    wrong = door.ssh("report", "--json", site=site)
    assert wrong.returncode == 2 and b"the form is: report > FILE.html" in wrong.stderr


def test_what_a_record_says_cannot_act_on_the_terminal(door: Door) -> None:
    evil = "fine\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\x7f\r\n"
    name = new_id()
    door.vault.judge("alice-1", name, evil)
    number = str(len(door.vault.records))
    texts = ("history", f"show {number}", "best", f"diff 1 {number}")
    calls = (*texts, "history --json", "history --export", "report", f"verdict {name}")
    for words in calls:
        shown = door.ssh(words).stdout.decode()
        assert shown.replace("\n", "").isprintable(), words
        assert "fine" in shown
    assert json.loads(json.loads(door.ssh("verdict", name).stdout)["record"])["reason"] == evil


def test_verify_names_the_record_that_was_changed(door: Door) -> None:
    ledger = door.vault.state / "outbox" / "ledger.jsonl"
    before = ledger.read_bytes()
    try:
        ledger.write_bytes(before.replace(b"lungs", b"longs", 1))
        told = door.ssh("verify")
        assert told.returncode == 3
        assert b"record 1 hashes to" in told.stderr
        assert told.stderr.count(b"\n") == 1
    finally:
        ledger.write_bytes(before)


# What is not served


REFUSED = {
    "rm -rf /": 2, "bash": 2, "sh -c id": 2, "history; id": 2, "history | cat": 2, "history && id": 2, "'history": 2,
    "history --last": 2, "history --last -1": 2, "history --last 1e3": 2, "history --output /tmp/x": 2, "show": 2,
    "show 99999": 2, "show ../1": 2, "show 1 2": 2, "diff 1": 2, "show ١": 2,
    "verdict ../../sites": 2, "verdict": 2, "verdict 0190ABCD-0000-7000-8000-000000000000": 2,
    "verdict --wait nan 01900000-0000-7000-8000-000000000000": 2, "verdict --wait -1 x": 2, "release /etc/passwd": 2,
    "release --after ../1": 2, "channel ../x": 2, "release --wait": 2, "release --wait inf": 2, "internal-sftp": 2,
    "scp -f .": 3, "scp -f /etc/passwd": 3, "scp -t ../x": 3, "scp -t /tmp/x": 3, "scp -t x": 3, "scp -r -t .": 3,
    "scp -d -t .": 3, "scp -t . .": 3, "scp -t -- -x": 3, "scp": 3, "scp -S /bin/sh -t .": 3,
    "$(id)": 2, "verdict $(id)": 2, "/usr/lib/sftp-server": 2, "x" * 5000: 2, "\x1b[2J": 2,
}  # fmt: skip


def test_every_other_command_is_refused_with_one_line(door: Door) -> None:
    with door.client() as client:
        for words, code in REFUSED.items():
            channel = client.open_session()
            channel.exec_command(words)
            out = channel.makefile("rb").read() + channel.makefile_stderr("rb").read()
            assert (channel.recv_exit_status(), out.count(b"\n")) == (code, 1), (words, out)
            line = out.decode()
            assert line.lstrip("\x01").replace("\n", "").isprintable(), words
            if words in ("rm -rf /", "bash", "internal-sftp", "$(id)"):
                assert "the verbs are scp -t, verdict, release, channel, history" in line
    assert door.vault.inbox() == []


def test_there_is_no_shell_and_no_terminal(door: Door) -> None:
    told = door.ssh()
    assert told.returncode == 2
    assert b"there is no shell here; the verbs are" in told.stderr
    assert told.stderr.count(b"\n") == 1
    with door.client() as client, pytest.raises(paramiko.SSHException):
        client.open_session().get_pty()
    with door.client() as client:
        channel = client.open_session()
        channel.invoke_shell()
        assert channel.recv_exit_status() == 2


def test_there_is_no_sftp_no_forwarding_and_no_agent(door: Door) -> None:
    with door.client() as client, pytest.raises((paramiko.SSHException, EOFError)):
        client.open_session().invoke_subsystem("sftp")
    with door.client() as client, pytest.raises(paramiko.ChannelException):
        client.open_channel("direct-tcpip", ("127.0.0.1", door.port), ("127.0.0.1", 1))
    with door.client() as client, pytest.raises(paramiko.ChannelException):
        client.open_channel("auth-agent@openssh.com")
    with door.client() as client, pytest.raises(paramiko.SSHException):
        client.request_port_forward("127.0.0.1", 0)
    with door.client() as client, pytest.raises(paramiko.SSHException):
        client.open_session().request_x11()
    forwarded = door.ssh("-N", flags=("-oExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22"))
    assert forwarded.returncode == 255
    unix = door.ssh("-N", flags=("-oExitOnForwardFailure=yes", "-R", "/tmp/door-test.sock:127.0.0.1:22"))
    assert unix.returncode == 255


def test_the_client_sets_no_environment(door: Door) -> None:
    with door.client() as client:
        channel = client.open_session()
        channel.set_environment_variable("PYTHONPATH", "/tmp")
        channel.set_environment_variable("SSH_ORIGINAL_COMMAND", "history")
        channel.exec_command("help")
        assert b"scp -O FILE" in channel.makefile("rb").read()


def test_only_enrolled_keys_log_in(door: Door) -> None:
    door.vault.enrol("alice-1")
    until(lambda: door.ssh("help", site="alice-2").returncode == 255)
    assert door.ssh("help", site="nobody").returncode == 255
    transport = paramiko.Transport(("127.0.0.1", door.port))
    transport.start_client(timeout=10)
    with pytest.raises(paramiko.BadAuthenticationType) as refusal:
        transport.auth_password(door.user, "secret")
    assert refusal.value.allowed_types == ["publickey"]
    transport.close()
    transport = paramiko.Transport(("127.0.0.1", door.port))
    transport.start_client(timeout=10)
    with pytest.raises(paramiko.AuthenticationException):
        transport.auth_publickey(
            "somebody", paramiko.RSAKey.from_private_key_file(str(door.vault.keys["alice-1"].path))
        )
    transport.close()


@pytest.mark.parametrize(("address", "count"), [("127.0.0.1", 30), ("127.0.0.9", 50)])
def test_silent_strangers_from_one_address_keep_no_site_out(door: Door, address: str, count: int) -> None:
    with contextlib.ExitStack() as strangers:
        for _ in range(count):
            try:
                one = socket.create_connection(("127.0.0.1", door.port), 10, source_address=(address, 0))
            except OSError as error:
                pytest.skip(f"nobody comes from {address} on this machine: {error}")
            strangers.enter_context(one)
        for _ in range(3):
            assert door.ssh("help").returncode == 0


def test_one_connection_has_few_channels(door: Door) -> None:
    with door.client() as client:
        channels = [client.open_session() for _ in range(10)]
        with pytest.raises(paramiko.ChannelException):
            client.open_session()
        channels[0].close()


def test_an_auditor_only_reads(door: Door, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"x")
    assert b"refused: scp is for sites" in door.scp(str(tmp_path / "b"), site="auditor").stderr
    for verb in ("release", "channel", f"verdict {new_id()}"):
        told = door.ssh(verb, site="auditor")
        assert (told.returncode, b"is for sites" in told.stderr) == (3, True)


# Uploads


@pytest.mark.parametrize("flags", [(), ("-p",), ("-q",), ("-v",), ("-C",)])
def test_scp_delivers_one_whole_bundle(door: Door, tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = os.urandom(3_000_000)
    bundle = tmp_path / "odd name;$(id)..bundle"
    bundle.write_bytes(data)
    sent = door.scp(*flags, str(bundle))
    assert sent.returncode == 0, sent.stderr
    [arrived] = door.vault.inbox()
    assert BUNDLE.fullmatch(arrived.name)
    assert arrived.read_bytes() == data
    assert arrived.stat().st_mode & 0o777 == 0o600
    assert door.vault.inbox("alice-2") == []


def test_paramiko_delivers_and_bundles_stand_in_order_of_arrival(door: Door, tmp_path: Path) -> None:
    with door.client() as client:
        for number in range(3):
            (tmp_path / "b").write_bytes(bytes([number]) * 100_000)
            SCPClient(client).put(str(tmp_path / "b"), b".")
    assert [path.read_bytes()[0] for path in door.vault.inbox()] == [0, 1, 2]


@pytest.mark.parametrize("target", ["x.bundle", "/tmp/x", "../x", "~/x", "./x"])
def test_scp_takes_no_target(door: Door, tmp_path: Path, target: str) -> None:
    (tmp_path / "b").write_bytes(b"x")
    sent = door.scp(str(tmp_path / "b"), target=target)
    assert (sent.returncode, b"refused: scp takes no target" in sent.stderr) == (1, True), sent
    assert door.vault.inbox() == []


def test_scp_takes_one_plain_file(door: Door, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    assert b"refused:" in door.scp("-r", str(tmp_path)).stderr
    assert b"refused:" in door.scp(str(tmp_path / "a"), str(tmp_path / "b")).stderr
    assert door.vault.inbox() == []


def speak(client: paramiko.Transport, *messages: bytes) -> tuple[bytes, int]:
    """Speak the protocol of `scp -t` by hand; returns what the door said last and its exit code."""
    channel = client.open_session()
    channel.settimeout(10)
    channel.exec_command("scp -t .")
    answer = channel.recv(1000)
    for message in messages:
        assert answer == b"\0"
        channel.sendall(message)
        answer = channel.recv(1000)
    channel.shutdown_write()
    return answer, channel.recv_exit_status()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"C0644 {MAX_BYTES + 1} x\n", "bytes, at most"),
        ("C0644 99999999999999999999999999 x\n", "bytes, at most"),
        ("C0644 -1 x\n", "malformed"),
        ("C0644 1e3 x\n", "malformed"),
        ("C0644 ² x\n", "malformed"),
        ("C0644\n", "malformed"),
        ("C0644 5 \n", "malformed"),
        ("C 5 x\n", "malformed"),
        ("C" * 1500, "malformed"),
        ("C0644 0 x\n", "empty"),
        ("D0755 0 x\n", "one plain file"),
        ("E\n", "one plain file"),
        ("hello\n", "one plain file"),
    ],
)
def test_sizes_are_checked_before_bytes_are_read(door: Door, line: str, said: str) -> None:
    with door.client() as client:
        answer, code = speak(client, line.encode())
    assert answer.startswith(b"\1refused: ")
    assert said in answer.decode()
    assert code == 3
    assert door.vault.inbox() == []


def test_a_second_file_is_refused_and_the_first_stays(door: Door) -> None:
    with door.client() as client:
        answer, code = speak(client, b"C0644 5 x\n", b"hello\0", b"C0644 5 y\n")
    assert answer == b"\1refused: one bundle per scp, the first is taken\n"
    assert code == 3
    assert [path.read_bytes() for path in door.vault.inbox()] == [b"hello"]


def test_a_client_that_could_not_read_its_file_leaves_nothing(door: Door) -> None:
    with door.client() as client:
        answer, code = speak(client, b"C0644 5 x\n", b"hello\1")
    assert (answer[:7], code) == (b"\1later:", 4)
    assert door.vault.inbox() == []


def test_more_bytes_than_announced_are_refused(door: Door) -> None:
    with door.client() as client:
        answer, code = speak(client, b"C0644 5 x\n", b"hello, world\0")
    assert (answer[:7], code) == (b"\1later:", 4)
    assert door.vault.inbox() == []


def upload_begun(client: paramiko.Transport, door: Door) -> paramiko.Channel:
    """A third of an upload, which is on the door's disk."""
    channel = client.open_session()
    channel.exec_command("scp -t .")
    assert channel.recv(1) == b"\0"
    channel.sendall(b"C0644 1000000 x\n")
    assert channel.recv(1) == b"\0"
    channel.sendall(b"x" * 300_000)
    until(lambda: len(door.vault.inbox()) == 1)
    return channel


@pytest.mark.parametrize("how", ["connection", "channel", "socket"])
def test_a_cut_upload_leaves_nothing(door: Door, how: str) -> None:
    with door.client() as client:
        channel = upload_begun(client, door)
        assert door.vault.inbox()[0].name.endswith(".part")
        if how == "channel":
            channel.close()
        elif how == "socket":
            client.sock.close()
        else:
            client.close()
        until(lambda: door.vault.inbox() == [])
        until(lambda: door.commands() == [])


def test_a_killed_upload_leaves_no_bundle_and_the_next_one_sweeps(door: Door, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"whole")
    with door.client() as client:
        _open = upload_begun(client, door)  # it ends when it is forgotten
        # It is there and locked: another upload leaves it alone.
        assert door.scp(str(tmp_path / "b")).returncode == 0
        assert len(door.vault.inbox()) == 2
        [pid] = door.commands()
        os.kill(pid, signal.SIGKILL)
        until(lambda: door.commands() == [])
    [part] = [path for path in door.vault.inbox() if path.name.endswith(".part")]
    os.utime(part, (0, 0))
    assert door.scp(str(tmp_path / "b")).returncode == 0
    assert [path.read_bytes() for path in door.vault.inbox()] == [b"whole", b"whole"]


def test_a_site_can_fill_only_its_quota(door: Door, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"x" * 1000)
    with door.client() as client:
        for _ in range(4):
            SCPClient(client).put(str(tmp_path / "b"), b".")
        with pytest.raises(SCPException, match="later: 4 bundles of alice-1 wait here already"):
            SCPClient(client).put(str(tmp_path / "b"), b".")
        answer, code = speak(client, b"C0644 9 x\n")
        assert (answer[:7], code) == (b"\1later:", 4)
    assert len(door.vault.inbox()) == 4
    assert door.scp(str(tmp_path / "b"), site="alice-2").returncode == 0
    door.vault.inbox()[0].unlink()
    assert door.scp(str(tmp_path / "b")).returncode == 0


def test_announced_bytes_count_before_they_come(door: Door) -> None:
    with door.client() as client:
        channels = []
        for _ in range(3):
            channel = client.open_session()
            channel.exec_command("scp -t .")
            assert channel.recv(1) == b"\0"
            channel.sendall(f"C0644 {MAX_BYTES} x\n".encode())
            assert channel.recv(1) == b"\0"
            channels.append(channel)
        answer, _ = speak(client, b"C0644 9 x\n")
        assert answer.startswith(b"\1later: 3 bundles of alice-1 wait here already")


# Verdicts and releases


def test_a_verdict_is_the_signed_line(door: Door) -> None:
    name = new_id()
    assert door.ssh("verdict", name).returncode == 4
    line = door.vault.judge("alice-1", name)
    told = door.ssh("verdict", name)
    assert (told.returncode, told.stdout, told.stderr) == (0, line, b"")
    other = door.ssh("verdict", name, site="alice-2")
    assert (other.returncode, other.stdout) == (4, b"")
    assert b"no verdict on" in other.stderr


def test_a_verdict_is_pushed_while_somebody_waits(door: Door) -> None:
    name = new_id()
    with door.client() as client:
        channel = client.open_session()
        channel.exec_command(f"verdict --wait 20 {name}")
        time.sleep(0.5)
        line = door.vault.judge("alice-1", name)
        start = time.monotonic()
        assert channel.makefile("rb").read() == line
        assert time.monotonic() - start < 0.5
        assert channel.recv_exit_status() == 0


def test_a_wait_ends_with_4(door: Door) -> None:
    start = time.monotonic()
    told = door.ssh("verdict", "--wait", "0.5", new_id())
    assert (told.returncode, told.stderr.count(b"\n")) == (4, 1)
    assert 0.4 < time.monotonic() - start < 5


def test_a_release_is_streamed_when_it_is_new(door: Door) -> None:
    data = os.urandom(5_000_000)
    assert door.ssh("release", "--after", "10").returncode == 4
    door.vault.release(12, data)
    door.vault.release(9, b"older")
    for words in ("release", "release --after 11", "release --wait 5 --after=11"):
        told = door.ssh(words)
        assert (told.returncode, told.stderr) == (0, b"")
        assert told.stdout == data
    assert door.ssh("release --after 12").returncode == 4
    with door.client() as client:
        channel = client.open_session()
        channel.exec_command("release --after 12 --wait 20")
        time.sleep(0.3)
        door.vault.release(13, data[:70_000])
        assert channel.makefile("rb").read() == data[:70_000]
    for path in (door.vault.state / "outbox" / "releases").iterdir():
        path.unlink()


@pytest.mark.parametrize("how", ["channel", "connection", "socket"])
def test_a_wait_does_not_outlive_its_client(door: Door, how: str) -> None:
    with door.client() as client:
        channel = client.open_session()
        channel.exec_command(f"verdict --wait 300 {new_id()}")
        until(door.commands)
        if how == "channel":
            channel.close()
        elif how == "socket":
            client.sock.close()
        else:
            client.close()
        assert until(lambda: door.commands() == []) < 2


# Revocation


def test_a_revoked_site_is_out_at_once(door: Door, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"x")
    with door.client("alice-2") as other, door.client() as waiting, door.client() as idle:
        left = other.open_session()
        left.exec_command(f"verdict --wait 20 {new_id()}")
        channel = waiting.open_session()
        channel.exec_command(f"verdict --wait 20 {new_id()}")
        speak(idle, b"C0644 1 x\n", b"x\0")
        until(lambda: len(door.commands()) == 2)
        door.vault.enrol("alice-2", "auditor")
        assert b"refused: alice-1 is not enrolled with this key any more" in channel.makefile_stderr("rb").read()
        assert channel.recv_exit_status() == 3
        until(lambda: not waiting.is_active(), 4)
        until(lambda: not idle.is_active(), 4)
        time.sleep(0.3)
        assert other.is_active()
        assert not left.exit_status_ready()
    assert door.ssh("help").returncode == 255
    assert door.scp(str(tmp_path / "b")).returncode != 0
    door.vault.enrol()
    until(lambda: door.ssh("help").returncode == 0)


def test_a_revoked_site_cannot_finish_an_upload(door: Door) -> None:
    with door.client() as client:
        channel = client.open_session()
        channel.exec_command("scp -t .")
        assert channel.recv(1) == b"\0"
        channel.sendall(b"C0644 1000000 x\n")
        assert channel.recv(1) == b"\0"
        door.vault.enrol("alice-2")
        with contextlib.suppress(OSError, EOFError):
            for _ in range(10):
                channel.sendall(b"x" * 100_000)
                time.sleep(0.05)
            channel.sendall(b"\0")
        until(lambda: not client.is_active(), 4)
    until(lambda: door.commands() == [])
    assert door.vault.inbox() == []


def test_a_name_enrolled_anew_does_not_revive_the_old_key(door: Door) -> None:
    entry = {"site": "alice-1", "role": "site", "key": door.vault.keys["stranger"].public.line}
    with door.client() as client:
        speak(client, b"C0644 1 x\n", b"x\0")
        door.vault.replace(door.vault.state / "outbox" / "sites.json", canonical({"sites": [entry]}))
        channel = client.open_session()
        channel.exec_command("help")
        assert channel.recv_exit_status() == 3
        until(lambda: not client.is_active(), 4)


# The door itself


def test_the_door_writes_only_its_own_rooms(door: Door, tmp_path: Path) -> None:
    def seen() -> dict[Path, float]:
        folders = (door.vault.state / "outbox", door.vault.state / "vault")
        return {path: path.stat().st_mtime_ns for folder in folders for path in (folder, *folder.rglob("*"))}

    before = seen()
    (tmp_path / "b").write_bytes(b"x")
    door.scp(str(tmp_path / "b"))
    for verb in ("history", "verify", "release", f"verdict {new_id()}"):
        door.ssh(verb)
    assert seen() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_door_waits_for_the_vault_and_survives_kill_9(kind: str, tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    door = make_door(kind, tmp_path, keys)
    door.start()
    try:
        assert "waiting for" in door.log.read_text()
        fingerprint = subprocess.run(
            ["ssh-keygen", "-lf", str(door.vault.state / "door" / "host_key.pub")], capture_output=True, check=True
        ).stdout.split()[1]
        assert fingerprint.decode() in door.log.read_text()
        host_key = (door.vault.state / "door" / "host_key").read_bytes()
        assert door.ssh("help").returncode == 255
        door.vault.begin()
        until(lambda: door.ssh("help").returncode == 0)
        assert door.process
        door.process.kill()
        door.process.wait()
        door.start()
        until(lambda: door.ssh("help").returncode == 0)
        assert (door.vault.state / "door" / "host_key").read_bytes() == host_key
    finally:
        door.stop()
    assert not door.answers()


def test_the_embedded_door_ends_while_a_channel_begins(
    tmp_path: Path, keys: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is cancelled while its pipes are not there yet may be waited for for ever."""
    begun, done, connect = threading.Event(), threading.Event(), BaseSubprocessTransport._connect_pipes

    async def slowly(transport: Any, waiter: Any) -> None:
        begun.set()
        await asyncio.sleep(1)
        await connect(transport, waiter)
        done.set()

    monkeypatch.setattr(BaseSubprocessTransport, "_connect_pipes", slowly)
    door, stop = make_door("embedded", tmp_path, keys), threading.Event()
    door.vault.begin()
    settings = DoorSettings(state=door.vault.state, embedded=True, listen=f"127.0.0.1:{door.port}")
    serving = threading.Thread(target=serve_embedded, args=(settings, logging.getLogger("door"), stop), daemon=True)
    serving.start()
    until(door.answers)
    with door.client() as client, client.open_session(timeout=5) as channel:
        channel.exec_command("help")
        assert begun.wait(10)
        stop.set()
        serving.join(20)
    assert not serving.is_alive() and done.is_set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_named(kind: str, tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    door = make_door(kind, tmp_path, keys)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", door.port))
        taken.listen()
        door.start(wait=False)
        assert door.process
        assert door.process.wait(20) == 2
    last = door.log.read_text().splitlines()[-2:]
    assert last[0] == f"charity: error: cannot listen on 127.0.0.1:{door.port}: address already in use"
    assert last[1].startswith("charity: hint: ")


@pytest.mark.sshd
def test_sshd_is_started_again_when_it_dies(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    door = make_door("sshd", tmp_path, keys)
    door.vault.begin()
    door.start()
    try:
        os.kill(int((door.vault.state / "door" / "sshd.pid").read_text()), signal.SIGKILL)
        until(lambda: "sshd ended with -9, next start in 2 s" in door.log.read_text())
        until(door.answers, 10)
        assert door.ssh("help").returncode == 0
    finally:
        door.stop()

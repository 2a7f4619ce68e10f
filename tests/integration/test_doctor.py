"""`fedssh doctor` at a real door: the right one, another one, none, and what lies on the way there."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity import enrol
from scripts.demo.federation import free_port
from tests.harness.host import stock_host
from tests.harness.proxies import Proxy, running
from tests.harness.room import Room
from tests.harness.waiting import last_words, until

DOORS = ["embedded", pytest.param("sshd", marks=pytest.mark.sshd)]


@dataclass
class Place:
    """A coordinator's door, and a site that was invited to it."""

    room: Room
    folder: Path
    port: int
    user: str
    door: subprocess.Popen[bytes] | None = None
    words: list[str] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.folder / "site"

    def open(self) -> None:
        command = [sys.executable, "-m", "fedssh.charity.cli", "door", "--state", str(self.room.folders.state)]
        log = self.folder / "door.log"
        with log.open("a") as out:
            self.door = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{self.port}", *self.words], stdout=out, stderr=out
            )
        until(lambda: self.look("--role", "coordinator")["port"]["found"].count("held by"), 20, lambda: last_words(log))

    def close(self) -> None:
        if self.door:
            self.door.terminate()
            self.door.wait(30)

    def change_host_key(self) -> None:
        host_key = self.room.folders.host_key
        for path in (host_key, host_key.with_name("host_key.pub")):
            path.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)

    def invite(self, site: str) -> Path:
        invitation = enrol.invitation(self.room.vault, site, f"{self.user}@127.0.0.1:{self.port}")
        path = self.folder / f"{site}.json"
        path.write_text(json.dumps(invitation))
        return path

    def join(self) -> None:
        self.state.mkdir()
        key = self.room.keys["alice-1"].path
        shutil.copy(key, self.state / "site_key")
        words = ["join", str(self.invite("alice-1")), "--state", str(self.state), "--offline"]
        subprocess.run([sys.executable, "-m", "fedssh.bob.cli", *words], check=True, capture_output=True)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        state = self.room.folders.state if "coordinator" in words else self.state
        known = ["--state", str(state), "--listen", f"127.0.0.1:{self.port}", "--timeout", "5"]
        command = [sys.executable, "-m", "fedssh.cli", "doctor", *known, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def look(self, *words: str | Path, code: int | None = None) -> dict[str, dict[str, Any]]:
        """The findings by the check's name."""
        done = self.run(*words, "--json")
        assert done.stdout, done.stderr
        said = json.loads(done.stdout)
        assert done.returncode == said["exit_code"] and code in (None, done.returncode), done.stdout
        return {check["check"]: check for check in said["checks"]}


@pytest.fixture(params=DOORS)
def place(request: pytest.FixtureRequest, room: Room, tmp_path: Path) -> Iterator[Place]:
    embedded = request.param == "embedded"
    place = Place(room, tmp_path, free_port(), "charity" if embedded else getpass.getuser())
    place.words = ["--embedded"] if embedded else []
    room.release()
    try:
        yield place
    finally:
        place.close()


def contents(folder: Path) -> dict[str, tuple[float, bytes]]:
    return {str(path): (path.stat().st_mtime, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_site_at_the_right_door(place: Place) -> None:
    place.open()
    place.join()
    before = contents(place.state)
    found = place.look("--role", "bob")
    assert found["port"]["state"] == "ok" and f"127.0.0.1:{place.port} answers in" in found["port"]["found"]
    assert "SSH-2.0-" in found["port"]["found"]
    assert found["host key"]["state"] == "ok" and "as site.json has it" in found["host key"]["found"]
    assert found["invitation"]["state"] == "ok" and "alice-1, site key SHA256:" in found["invitation"]["found"]
    assert found["memory"]["state"] in ("ok", "failed") and found["clock"]["state"] != "failed"
    assert contents(place.state) == before
    text = place.run("--role", "bob").stdout
    assert f"ok       port        127.0.0.1:{place.port} answers in" in text


def test_another_host_key_is_exit_code_3_with_both_fingerprints(place: Place) -> None:
    place.join()
    place.change_host_key()
    place.open()
    found = place.look("--role", "bob", code=3)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", place.room.folders.host_key], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    said = found["host key"]
    assert said["state"] == "failed" and f"answered with host key {shown}, site.json has SHA256:" in said["found"]
    assert "stop here" in said["remedy"] and found["port"]["state"] == "ok"
    place.invite("alice-1")  # anew, and so with the new key: it is the one that shows up, and not the one pinned
    found = place.look("--role", "bob", "--invitation", place.folder / "alice-1.json", code=3)
    assert found["host key"]["state"] == "ok" and "names another host key than" in found["invitation"]["found"]


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_what_bob_compares_must_be_what_was_joined(place: Place) -> None:
    place.open()
    place.join()
    (place.state / "known_hosts").write_text("")
    found = place.look("--role", "bob", code=3)
    assert "known_hosts does not have the host key of site.json" in found["host key"]["found"]


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_no_door_and_an_invitation_of_another_site(place: Place) -> None:
    place.join()
    found = place.look("--role", "bob", code=1)
    assert found["port"]["state"] == "failed" and "cannot be reached (connection refused" in found["port"]["found"]
    assert "--via" in found["port"]["remedy"] and found["host key"]["state"] == "skipped"
    place.open()
    other = place.look("--role", "bob", "--invitation", place.invite("alice-2"), code=1)
    assert other["port"]["state"] == "ok" and other["host key"]["state"] == "ok"
    assert "the invitation is for the site key" in other["invitation"]["found"]


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
@pytest.mark.parametrize("kind", ["socks5", "http"])
def test_the_way_out_is_taken_and_its_password_is_not_shown(place: Place, kind: str) -> None:
    place.open()
    place.join()
    with running(Proxy(kind, ("site", "s3cret"))) as proxy:
        found = place.look("--role", "bob", "--via", proxy.url)
        assert f"through {kind}://127.0.0.1:{proxy.port} answers in" in found["port"]["found"]
        assert found["host key"]["state"] == "ok" and proxy.asked == [("127.0.0.1", place.port)]
        proxy.login = ("site", "another")
        done = place.run("--role", "bob", "--via", proxy.url.replace("another", "s3cret"))
        assert done.returncode == 1
        assert f"the proxy {kind}://127.0.0.1:{proxy.port} does not let this site in" in done.stdout
        assert "s3cret" not in done.stdout + done.stderr
        proxy.silent = True
        assert "did not answer in 5 s" in place.look("--role", "bob", "--via", proxy.url, code=1)["port"]["found"]
    wrong = place.run("--via", "socks5://s3cret/x")
    assert wrong.returncode == 2 and "s3cret" not in wrong.stdout + wrong.stderr


@pytest.mark.sshd
@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_a_jump_host_that_is_another_one(place: Place, tmp_path: Path) -> None:
    place.open()
    place.join()
    with stock_host(tmp_path / "jump", place.room.keys["alice-1"], "restrict,port-forwarding") as jump:
        via = f"ssh://{getpass.getuser()}@127.0.0.1:{jump.port}"
        words = ["--via", via, "--via-known-hosts", str(jump.known_hosts)]
        assert place.look("--role", "bob", *words)["host key"]["state"] == "ok"
        jump.stop()
        jump.make_host_key()
        jump.start()
        found = place.look("--role", "bob", *words, code=3)
        assert "the jump host 127.0.0.1" in found["host key"]["found"] and found["port"]["state"] == "skipped"


def test_the_coordinators_own_port(place: Place, tmp_path: Path) -> None:
    found = place.look("--role", "coordinator")
    assert found["port"]["found"] == f"127.0.0.1:{place.port} is free: no door listens there yet"
    assert found["host key"]["state"] == "ok" and "invitation" not in found
    place.open()
    found = place.look("--role", "coordinator")
    assert "is held by what says SSH-2.0-" in found["port"]["found"]
    assert found["host key"]["state"] == "ok" and "host_key.pub has it" in found["host key"]["found"]
    public = place.room.folders.host_key.with_name("host_key.pub")  # of another coordinator than holds the port
    public.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n")
    found = place.look("--role", "coordinator", code=3)
    assert "holds the port: stop it" in found["host key"]["remedy"]


@pytest.mark.sshd
@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_an_auditor_needs_the_invitation_alone(place: Place, tmp_path: Path) -> None:
    place.open()
    public = tmp_path / "auditor"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", public], check=True)
    enrol.add(place.room.vault, "auditor", public.with_suffix(".pub"), "auditor")
    found = place.look("--invitation", place.invite("auditor"))
    assert found["host key"]["state"] == "ok" and found["memory"]["found"].endswith("an auditor needs 64 MB")


NO_PARAMIKO = """
import sys, importlib.util
sys.modules["paramiko"] = None
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "paramiko" else real(name, *more)
from fedssh.cli import main
main()
"""


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
@pytest.mark.parametrize("scanner", [True, False])
def test_without_paramiko_the_door_is_asked_by_other_means(place: Place, scanner: bool) -> None:
    place.open()
    place.join()

    def look() -> dict[str, Any]:
        words = ["doctor", "--state", str(place.state), "--role", "bob", "--json"]
        environ = {**os.environ, **({} if scanner else {"PATH": "/nowhere"})}
        done = subprocess.run(
            [sys.executable, "-c", NO_PARAMIKO, *words], capture_output=True, text=True, env=environ, check=False
        )
        return {check["check"]: check for check in json.loads(done.stdout)["checks"]}

    found = look()
    assert found["port"]["state"] == "ok" and "SSH-2.0-" in found["port"]["found"]
    assert found["host key"]["state"] == ("ok" if scanner else "skipped")
    place.close()
    place.change_host_key()
    place.open()
    assert look()["host key"]["state"] == ("failed" if scanner else "skipped")
    with contextlib.suppress(OSError):
        place.close()
    assert look()["port"]["state"] == "failed"

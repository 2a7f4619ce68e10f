"""The steps on one machine. Each looks before it acts, so that each may be done again after any interruption."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fedssh.errors import SettingsError, UnreachableError
from fedssh.files import write_whole
from fleet import look, plan
from fleet.compose import data_files, data_in_room
from fleet.home import Home, pack
from fleet.images import Shipper
from fleet.inventory import Host
from fleet.ssh import Connection, Done, StepError

READY_SECONDS = 180
LET_IN_SECONDS = 90
WATCH_SECONDS = 8
MORE_SECONDS = 3600.0  # what trains or copies may take
Say = Callable[[str], None]


@dataclass(frozen=True)
class Did:
    """A step that was done: seconds, and bytes that travelled for it."""

    host: str
    step: str
    seconds: float
    size: int = 0

    @property
    def changed(self) -> bool:
        """Whether it was more than a look."""
        return self.step not in ("ready", "prove")


class Worker:
    """One machine at work.

    Args:
        host: What should stand there.
        connection: To it; with its lock where anything is to be changed.
        wish: What it should be like.
        rendered: Its compose.yaml; empty where nothing is installed by this command.
        shipper: Brings images.
        home: The folder at home.
        say: Told of each step.
        did: Gets each step that was done.
    """

    def __init__(
        self,
        host: Host,
        connection: Connection,
        wish: plan.Wish,
        rendered: bytes,
        shipper: Shipper | None,
        home: Home,
        say: Say,
        did: list[Did],
    ) -> None:
        self.host, self.connection, self.wish, self.home = host, connection, wish, home
        self._rendered, self._shipper, self._say, self._did = rendered, shipper, say, did
        self.facts = self.look()

    def look(self) -> look.Facts:
        """What is there now."""
        self.facts = look.read(self.connection.run("look", seconds=120).text)
        return self.facts

    def prepare(self, force: bool) -> None:
        """An engine, folders, data, images, a first release.

        Raises:
            SettingsError: What is wanted does not fit there.
            StepError: A step failed.
        """
        self._fits(force)
        if self.facts.upgrade:
            self.run("undo", "undoing the upgrade that was interrupted", before=("back",))
        if self.facts.prepared != self.wish.prepared or not self.facts.usable:
            self.run("prepare", "preparing", self.host.role, self.wish.prepared, seconds=MORE_SECONDS)
            self.look()
        self._fits(force)
        self._data()
        self.images()
        if not self.facts.release:
            self.run("use", "switching to the release", self.install())
            self.look()

    def images(self) -> None:
        """Bring the images of the first release, or those of another one where `install` follows."""
        missing = [name for name in self.host.images if self._called(name) not in self.facts.images]
        if self.facts.release and self.facts.rendered == self.wish.rendered:
            missing = [] if set(self.wish.images) <= self.facts.images else missing
        elif self.facts.release:
            return
        self.ship(missing)

    def ship(self, missing: list[str]) -> int:
        """Bring images there; the bytes that travelled."""
        if not missing:
            return 0
        assert self._shipper
        with self.step("images", f"shipping {', '.join(missing)}") as size:
            size.append(self._shipper.ship(self.connection, missing))
        return size[-1]

    def install(self) -> str:
        """Write the release there; the number that it has."""
        return self.run("install", "installing a release", self.wish.rendered, give=self._rendered).text

    def begin(self, address: str, federation: str) -> None:
        """Coordinator: begin the federation and start; does what is missing."""
        if not self.facts.begun:
            settings = {**self.host.settings, "name": federation, "address": f"charity@{address}"}
            settings["data"] = data_in_room(self.host)
            words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
            self.run("begin", "beginning the federation", *words, seconds=MORE_SECONDS)
        self.start()
        self.run("ready", "waiting until she judges", str(READY_SECONDS), seconds=READY_SECONDS + 60)

    def start(self) -> None:
        """Start what does not run."""
        if not all(self.facts.well(room) for room in self.host.rooms):
            self.run("start", f"starting {' and '.join(self.host.rooms)}")

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Coordinator: who was ever enrolled."""
        with look.answer_of(self.host.name):
            found = json.loads(self.connection.run("nodes", seconds=120).text)
            return {node["site"]: {key: str(node[key]) for key in ("state", "key")} for node in found}

    def enrol(self, name: str, key: str, role: str, nodes: Mapping[str, dict[str, Any]]) -> bytes:
        """Coordinator: enrol somebody, unless that was done; the invitation.

        Raises:
            SettingsError: Another key has that name, or it was revoked.
        """
        from fedssh.forms import fingerprint

        known = nodes.get(name)
        if known and known["state"] != "enrolled":
            raise SettingsError(
                f"{name} was revoked in this federation", "`charity nodes add` enrols it with a new key"
            )
        if known and known["key"] != fingerprint(key):
            raise SettingsError(
                f"{name} is enrolled with the key {known['key']}, here it has {fingerprint(key)}",
                "`charity nodes revoke` the old one first, if this is really theirs",
            )
        verb = "invite" if known else "add"
        done = self.run("enrol", f"enrolling {name}", verb, name, role, give=f"{key}\n".encode())
        return done.output

    def key(self) -> str:
        """Site: its public key, made there if need be; kept at home as well."""
        key = self.facts.key or self.run("keygen", "making the site's key").text
        self.facts = replace(self.facts, key=key)
        self.home.make()
        write_whole(self.home.key(self.host.name), f"{key}\n".encode())
        return key

    def join(self, invitation: bytes) -> None:
        """Site: join by an invitation, unless it has joined by this very one."""
        if self.facts.joined and self.facts.invitation == hashlib.sha256(invitation).hexdigest():
            return
        via = [] if self.host.via is None else [f"--via={self.host.via}"]
        self.run("join", "joining", *via, give=invitation)

    def prove(self) -> str:
        """That it works: in words.

        Raises:
            StepError: It does not.
        """
        with self.step("prove", "looking whether it works"), look.answer_of(self.host.name):
            return self._prove_site() if self.host.role == "site" else self._prove_coordinator()

    def upgrade(self) -> bool:
        """Another release, which undoes itself when it does not work. False where nothing is to be done."""
        if self.facts.rendered == self.wish.rendered:
            return False
        self.ship([name for name in self.host.images if self._called(name) not in self.facts.images])
        self.switch(self.install())
        return True

    def switch(self, number: str, back: bool = False) -> None:
        """Make a release the current one, as an upgrade does."""
        says = f"going to release {number}"
        if self.host.role == "coordinator":
            words = ["code" if back else "copy", str(READY_SECONDS // 3)]
            self.run("upgrade_coordinator", says, number, *words, before=("back",), seconds=MORE_SECONDS)
        else:
            self.run("upgrade_site", says, number, str(WATCH_SECONDS), seconds=MORE_SECONDS)
        self.run("prune", "removing older releases")

    def run(self, name: str, says: str, *words: str, **more: Any) -> Done:
        """A step: told before, timed after."""
        with self.step(name, says):
            return self.connection.run(name, *words, **more)

    @contextmanager
    def step(self, name: str, says: str) -> Iterator[list[int]]:
        """Tell of a step and time it; bytes that travelled are appended to what it yields."""
        self._say(f"{self.host.name}: {says}")
        start, size = time.monotonic(), [0]
        yield size
        self._did.append(Did(self.host.name, name, round(time.monotonic() - start, 3), size[-1]))

    def _called(self, name: str) -> str:
        return dict(zip(self.host.images, self.wish.images, strict=True))[name]

    def _fits(self, force: bool) -> None:
        found = plan.misfits(self.host, self.facts, None, None)
        if late := plan.skew(self.facts, time.time()):
            self._say(f"{self.host.name}: {late}; let it use NTP")
        if found and not force:
            raise SettingsError("; ".join(found), "--force tries it all the same")

    def _data(self) -> None:
        host = self.host
        if host.data_on_host is not None:
            self.connection.run("check_data", host.data_on_host)
            return
        if not self.wish.data or self.facts.data == self.wish.data:
            return
        if host.role == "coordinator" and self.facts.begun:
            raise SettingsError(
                f"{host.name}: {host.data} is not what the federation began with",
                "a federation keeps its holdout; begin another one for another",
            )
        assert host.data
        with self.step("data", f"copying {host.data.name}") as size, tempfile.TemporaryFile() as archive:
            pack(host.data, archive)
            size.append(archive.tell())
            archive.seek(0)
            folder = "holdout" if host.role == "coordinator" else "data"
            files = str(len(data_files(host.data)))
            self.connection.run("put_data", folder, self.wish.data, files, give=archive, seconds=MORE_SECONDS)

    def _prove_coordinator(self) -> str:
        found = json.loads(self.connection.run("charity_status", seconds=120).text)
        return f"record {found['records']}, {len(found['sites'])} sites, {found['state']}"

    def _prove_site(self) -> str:
        end = time.monotonic() + LET_IN_SECONDS
        while True:
            facts = self.look()
            for name, room in facts.rooms.items():
                if not facts.well(name):
                    raise StepError(f"{self.host.name}: {name} is {room.status} (exit code {room.exit_code})")
            heard = json.loads(self.connection.run("bob_status", seconds=120).text)
            if heard["release"]:
                return f"has release {heard['release']['sequence']}"
            if time.monotonic() > end:
                raise UnreachableError(
                    f"{self.host.name}: Bob got no release in {LET_IN_SECONDS} s"
                    + (f": {heard['reason']}" if heard["reason"] else ""),
                    f"scripts/deploy logs {self.host.name}",
                )
            time.sleep(1)

"""All machines of a federation: reach them, make them, and do on each what is missing. The verbs stand on this."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from fedssh.errors import AgentError, SettingsError, UnreachableError
from fleet import compose, images, plan
from fleet.home import Home, mark_of
from fleet.host import Did, Worker
from fleet.images import Image, Shipper
from fleet.inventory import Cloud, Given, Host, Inventory
from fleet.pins import born_with, user_data
from fleet.ssh import Connection, Target

if TYPE_CHECKING:
    from fleet.linode import Account, Machine

API = "LINODE_API"  # of tests; never from an inventory, which could send the token anywhere
TOKEN = "LINODE_TOKEN"  # noqa: S105 - the name of a variable
BOOT_SECONDS = 300.0
LOGIN_SECONDS = 180.0
Say = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Options:
    """What a command was told beside the inventory."""

    only: str | None = None
    force: bool = False
    tar: bool = False
    token: str = field(default="", repr=False)


@dataclass
class Fleet:
    """An inventory at work.

    Attributes:
        did: The steps that were done.
    """

    inventory: Inventory
    options: Options
    say: Say
    did: list[Did] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = Home(self.inventory)
        self._account: Account | None = None
        self._stack = ExitStack()
        self._stopped = threading.Event()
        self._images: dict[str, Image] | None = None
        self._bases: dict[bool, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._stack.close()

    @property
    def chosen(self) -> tuple[Host, ...]:
        """The hosts that this command is about."""
        return self.inventory.chosen(self.options.only)

    @property
    def account(self) -> Account:
        """The account at the cloud; asked for its scopes at first use.

        Raises:
            SettingsError: No token, or a wrong one.
        """
        with self._lock:
            if self._account is None:
                from fleet.linode import Account

                account = Account(self.options.token, os.environ.get(API), self._stopped.wait)
                account.check()
                self._account = account
            return self._account

    def in_cloud(self) -> bool:
        """Whether any host is on machines that are made."""
        return any(isinstance(host.place, Cloud) for host in self.inventory.hosts)

    def made(self) -> dict[str, Machine]:
        """The machines that there are in the cloud, by label."""
        if not self.in_cloud():
            return {}
        return {machine.label: machine for machine in self.account.machines(self.inventory.tag)}

    # What is wanted

    def wanted_images(self) -> dict[str, Image]:
        """The images of the chosen hosts; built once."""
        if self._images is None:
            names = [name for host in self.chosen for name in host.images]
            self._images = images.wanted(names, self.inventory.images, self.say)
        return self._images

    def leave_unbuilt(self) -> None:
        """Where nothing runs yet, what images contain makes no difference to a plan: do not build them for it."""
        if self._images is None and self.inventory.images is None:
            names = {name for host in self.chosen for name in host.images}
            self._images = {name: Image(name, None, f"fedssh-{name}", 0) for name in names}

    def rendered(self, host: Host) -> bytes:
        """The compose.yaml of a host."""
        if host.gpu not in self._bases:
            self._bases[host.gpu] = compose.services(host.gpu)
        return compose.render(host, self.wanted_images(), self._bases[host.gpu])

    def wish(self, host: Host) -> plan.Wish:
        """What a host should be like."""
        script = (resources.files("fleet") / "on_host" / "prepare.sh").read_bytes()
        invitation = host.invitation or self.home.invitation(host.name)
        known = invitation.read_bytes() if host.role == "site" and invitation.is_file() else b""
        return plan.Wish(
            prepared=hashlib.sha256(script + host.role.encode()).hexdigest(),
            images=tuple(self.wanted_images()[name].called for name in host.images),
            rendered=hashlib.sha256(self.rendered(host)).hexdigest(),
            data=mark_of(host.data) if host.data is not None else "",
            invitation=hashlib.sha256(known).hexdigest() if known else "",
            waits=host.role == "site" and not known and self.inventory.coordinator is None,
        )

    # Machines

    def target(self, host: Host, machine: Machine | None) -> Target:
        """Where to log in on a host, and whose key to believe there.

        Raises:
            SettingsError: It was made by another checkout, whose pins are not here.
        """
        label = self.inventory.label(host)
        options = self.inventory.ssh
        if isinstance(host.place, Given):
            place = host.place
            if host.host_key is not None:
                if self.home.pins.of(label) != [host.host_key]:
                    self.home.make()
                    self.home.pins.pin(label, [host.host_key])
                return Target(
                    host.name, label, place.user, place.host, place.port, (self.home.pins.known_hosts,), True, options
                )
            own = Path("~/.ssh/known_hosts").expanduser()
            return Target(host.name, label, place.user, place.host, place.port, (own,), False, options)
        assert machine
        if not self.home.pins.of(label):
            raise SettingsError(
                f"{machine.label} was not made from here: {self.home.path.name} pins no host key of it",
                "use the folder with which it was made, or delete the machine",
            )
        return Target(host.name, label, "root", machine.address, 22, (self.home.pins.known_hosts,), True, options)

    def make(self, host: Host, have: Machine | None) -> Machine:
        """The machine of a host in the cloud; made where there is none, waited for where it is not up yet."""
        assert isinstance(host.place, Cloud) and self.inventory.linode
        linode, label, tag = self.inventory.linode, self.inventory.label(host), self.inventory.tag
        ports = (host.port,) if host.role == "coordinator" else ()
        firewall = self.account.firewall(label, tag, linode.admin_from, ports)
        if have is None:
            self.say(f"{host.name}: making {host.place}")
            private, public = born_with()
            self._has_own(label).unlink(missing_ok=True)
            self.home.pins.pin(label, [public])  # before anything can be reached there
            have = self.account.make(
                label, tag, host.place.region, host.place.kind, linode.image,
                " ".join(linode.ssh_key.read_text().split()[:2]), user_data(private, public), firewall,
            )  # fmt: skip
        return self.account.ready(have.id, BOOT_SECONDS, lambda status: self.say(f"{host.name}: {status}"))

    def connect(
        self, host: Host, what: str, lock: bool, machine: Machine | None = None, patient: bool = False
    ) -> Connection:
        """A connection that ends with this command.

        Args:
            patient: Wait for a machine that has just been made, whose sshd is not up yet.
        """
        target = self.target(host, machine)
        tries = int(LOGIN_SECONDS / 2) if patient else 1
        for left in range(tries - 1, -1, -1):
            try:
                connection = Connection(target, what, lock)
                break
            except UnreachableError:
                if not left or self._stopped.wait(2):
                    raise
        self._stack.callback(connection.close)
        return connection

    def own_host_key(self, host: Host, connection: Connection, machine: Machine) -> Connection:
        """Replace the host key that a machine was born with by one that never left it; the connection to go on with."""
        label = self.inventory.label(host)
        if self._has_own(label).exists():
            return connection
        self.say(f"{host.name}: its own host key")
        own = connection.run("rotate", "make").text
        self.home.pins.pin(label, [*[key for key in self.home.pins.of(label) if key != own], own])
        connection.run("rotate", "take")
        self.home.pins.pin(label, [own])
        self._has_own(label).touch()
        connection.close()
        return self.connect(host, connection.what, True, machine, patient=True)

    def forget(self, label: str) -> None:
        """A machine is gone: believe its keys no more."""
        self.home.pins.pin(label, [])
        self._has_own(label).unlink(missing_ok=True)

    def _has_own(self, label: str) -> Path:
        return self.home.path / "keys" / f"{label}.own-host-key"

    def worker(self, host: Host, connection: Connection, wish: plan.Wish | None, shipper: Shipper | None) -> Worker:
        """A host at work; without a wish it is only looked at."""
        empty = plan.Wish("", tuple("" for _ in host.images), "")
        rendered = self.rendered(host) if wish else b""
        return Worker(host, connection, wish or empty, rendered, shipper, self.home, self.say, self.did)

    def shipper(self) -> Shipper:
        """Brings images; its registry ends with this command."""
        found = Shipper(self.wanted_images(), str(self.home.path), self.options.tar, self.say)
        self._stack.callback(found.close)
        return found

    # Several at once

    def each(
        self, hosts: Sequence[Host], work: Callable[[Host], Result]
    ) -> tuple[dict[str, Result], dict[str, AgentError]]:
        """Do something on several machines at once: what came of it, and what went wrong, by name."""
        results: dict[str, Result] = {}
        errors: dict[str, AgentError] = {}

        def one(host: Host) -> None:
            try:
                results[host.name] = work(host)
            except AgentError as error:
                errors[host.name] = error
            except OSError as error:
                errors[host.name] = AgentError(f"{host.name}: {error}")

        pool = ThreadPoolExecutor(max_workers=max(1, len(hosts)))
        try:
            list(pool.map(one, hosts))
        except BaseException:
            self._stopped.set()
            self._stack.close()  # ends every connection, and with them what the threads wait for
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return results, errors


def raise_first(errors: Mapping[str, AgentError], say: Say) -> None:
    """Raise the gravest of several errors, after telling the others; nothing where there are none."""
    ordered = sorted(errors.values(), key=lambda error: (error.exit_code != 3, error.exit_code))
    for other in ordered[1:]:
        say(f"error: {other}")
    if ordered:
        raise ordered[0]


def names(hosts: Iterable[Host]) -> str:
    """Their names, as a list of words."""
    return ", ".join(host.name for host in hosts)

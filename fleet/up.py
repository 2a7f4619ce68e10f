"""`plan`, `up` and `upgrade`: from what is there to what is wanted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedssh.errors import AgentError, SettingsError
from fedssh.files import write_whole
from fleet import door, plan
from fleet.fleet import Fleet, raise_first
from fleet.host import Worker
from fleet.images import Shipper
from fleet.inventory import Cloud, Given, Host
from fleet.look import Facts
from fleet.plan import Step

if TYPE_CHECKING:
    from fleet.linode import Machine


def planned(fleet: Fleet) -> dict[str, Any]:
    """What `up` and `upgrade` would do, whether it fits, and what it costs. Changes nothing.

    Raises:
        SettingsError: What is wanted cannot work, unless `--force`.
    """
    made = fleet.made()
    prices, misfits = _prices(fleet)

    def look(host: Host) -> Facts | None:
        machine = made.get(fleet.inventory.label(host))
        if isinstance(host.place, Cloud) and (machine is None or not _is_up(fleet, host, machine)):
            return None
        return fleet.worker(host, fleet.connect(host, "plan", False, machine), None, None).facts

    facts, errors = fleet.each(fleet.chosen, look)
    raise_first(errors, fleet.say)
    if not any(found and found.release for found in facts.values()):
        fleet.leave_unbuilt()
    steps: list[Step] = []
    for host in fleet.chosen:
        found = facts[host.name]
        if found is not None:
            misfits += plan.misfits(host, found, None, None)
            misfits += plan.other_holdout(host, found, fleet.wish(host))
        steps += plan.steps(host, found, fleet.wish(host))
    steps += [Step("coordinator", "enrol", f"enrol {name} and write its invitation") for name in _others(fleet)]
    if misfits and not fleet.options.force:
        raise SettingsError("; ".join(misfits), "--force tries it all the same")
    hourly, monthly, unknown = plan.total(prices)
    return {
        "federation": fleet.inventory.federation,
        "steps": [asdict(step) for step in steps],
        "misfits": misfits,
        "prices": [asdict(price) for price in prices],
        "hourly": round(hourly, 4),
        "monthly": round(monthly, 2),
        "not_published": unknown,
    }


def _others(fleet: Fleet) -> list[str]:
    """Auditors, and sites that somebody else deploys, which have no invitation yet."""
    if fleet.inventory.coordinator is None or fleet.options.only not in (None, "coordinator"):
        return []
    names = [*fleet.inventory.auditors, *(host.name for host in fleet.inventory.sites if host.place is None)]
    return [name for name in names if not fleet.home.invitation(name).exists()]


def _prices(fleet: Fleet) -> tuple[list[plan.Price], list[str]]:
    """What the chosen hosts' types cost, and why one of them is too small."""
    prices, misfits = [], []
    for host in fleet.chosen:
        if isinstance(host.place, Cloud):
            kind = fleet.account.kind(host.place.kind, host.place.region)
            prices.append(plan.Price(host.name, host.place.kind, kind.hourly, kind.monthly))
            misfits += plan.misfits(host, None, kind.memory, kind.disk)
            if host.gpu and not kind.gpus:
                misfits.append(f"{host.name}: {kind.name} has no GPU")
    return prices, misfits


def _is_up(fleet: Fleet, host: Host, machine: Machine) -> bool:
    return machine.status == "running" and bool(machine.address) and bool(fleet.home.pins.of(machine.label))


def up(fleet: Fleet) -> dict[str, Any]:
    """Do what is missing, from machines to a proof that it works."""
    with fleet.home.locked():
        if fleet.in_cloud():
            _, misfits = _prices(fleet)
            if misfits and not fleet.options.force:
                raise SettingsError("; ".join(misfits), "--force tries it all the same")
            assert fleet.inventory.linode
            fleet.account.images_has(fleet.inventory.linode.image)
        fleet.wanted_images()
        for host in fleet.chosen:
            fleet.rendered(host)
        return _Up(fleet).run()


class _Up:
    """One `up`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._shipper = fleet.shipper()
        self._machines: dict[str, Machine] = dict(fleet.made())
        self._proofs: dict[str, str] = {}
        self._waiting: list[str] = []

    def run(self) -> dict[str, Any]:
        """All of it; the coordinator first where it decides, all machines at once where they can."""
        fleet = self._fleet
        workers, errors = fleet.each(fleet.chosen, self._prepared)
        coordinator = self._coordinator(workers, errors)
        if coordinator is not None:
            self._enrol_others(coordinator)
        sites = [host for host in fleet.chosen if host.role == "site" and host.name in workers]
        self._invite(coordinator, [workers[host.name] for host in sites])
        _, failed = fleet.each(sites, lambda host: self._run_site(workers[host.name]))
        errors |= failed
        raise_first(errors, fleet.say)
        auditors = tuple(fleet.inventory.auditors)
        if coordinator is not None and (invitation := door.first_auditor(fleet.home.path / "invitations", auditors)):
            self._proofs["door"] = door.status(invitation, fleet.inventory.ssh)
        waiting = [
            name
            for name, worker in workers.items()
            if worker.facts.release and worker.facts.rendered != worker.wish.rendered
        ]
        return {
            "federation": fleet.inventory.federation,
            "did": [asdict(one) for one in fleet.did if one.changed],
            "looked": [asdict(one) for one in fleet.did if not one.changed],
            "proof": self._proofs,
            "waiting_for_upgrade": sorted(waiting),
            "waiting_for_invitation": self._waiting,
        }

    def _prepared(self, host: Host) -> Worker:
        fleet = self._fleet
        label = fleet.inventory.label(host)
        machine = self._machines.get(label)
        if isinstance(host.place, Cloud):
            new = machine is None or machine.status != "running"
            if new or not fleet.home.pins.of(label):
                machine = self._made(host, machine)
        connection = fleet.connect(host, "up", True, machine, patient=isinstance(host.place, Cloud))
        if machine is not None:
            connection = fleet.own_host_key(host, connection, machine)
        worker = fleet.worker(host, connection, fleet.wish(host), self._shipper)
        worker.prepare(fleet.options.force)
        if host.role == "site":
            worker.key()
        return worker

    def _made(self, host: Host, machine: Machine | None) -> Machine:
        fleet, start = self._fleet, time.monotonic()
        made = fleet.make(host, machine)
        self._machines[made.label] = made
        from fleet.host import Did

        fleet.did.append(Did(host.name, "machine", round(time.monotonic() - start, 3)))
        return made

    def _coordinator(self, workers: Mapping[str, Worker], errors: Mapping[str, AgentError]) -> Worker | None:
        """The coordinator, at work; None where this inventory has none. Without it nobody can be enrolled."""
        fleet = self._fleet
        host = fleet.inventory.coordinator
        if host is None:
            return None
        if host.name in workers:
            worker = workers[host.name]
            worker.begin(self.address(host), fleet.inventory.federation)
            self._proofs[host.name] = worker.prove()
            return worker
        if host.name in errors:
            raise_first(errors, fleet.say)
        machine = self._machines.get(fleet.inventory.label(host))
        if isinstance(host.place, Cloud) and machine is None:
            raise SettingsError("there is no coordinator yet", "`up` without --only, or with --only coordinator, first")
        worker = fleet.worker(host, fleet.connect(host, "up", False, machine), None, None)
        if not worker.facts.begun:
            raise SettingsError("the coordinator has no federation yet", "`up --only coordinator` first")
        return worker

    def address(self, host: Host) -> str:
        """Where sites reach the door."""
        if host.address is not None:
            return host.address
        if isinstance(host.place, Given):
            return host.place.at(host.port)
        return f"{self._machines[self._fleet.inventory.label(host)].address}:{host.port}"

    def _enrol_others(self, coordinator: Worker) -> None:
        """Auditors, and sites that somebody else deploys: their invitations are written at home."""
        fleet = self._fleet
        others = [(name, path, "auditor") for name, path in fleet.inventory.auditors.items()]
        others += [(host.name, host.key, "site") for host in fleet.inventory.sites if host.key is not None]
        others = [one for one in others if not fleet.home.invitation(one[0]).exists()]
        if not others or fleet.options.only not in (None, "coordinator"):
            return
        nodes = coordinator.nodes()
        for name, path, role in others:
            key = " ".join(path.read_text().split()[:2])
            write_whole(fleet.home.invitation(name), coordinator.enrol(name, key, role, nodes))
            if role == "site":
                fleet.say(f"send {fleet.home.invitation(name)} to whoever deploys {name}")

    def _invite(self, coordinator: Worker | None, sites: list[Worker]) -> None:
        """Get every site's invitation that is not there yet."""
        nodes: dict[str, dict[str, Any]] | None = None
        for worker in sites:
            host = worker.host
            path = host.invitation or self._fleet.home.invitation(host.name)
            if path.is_file():
                continue
            if coordinator is None:
                self._waiting.append(host.name)
                key, inventory = self._fleet.home.key(host.name), self._fleet.inventory.path.name
                self._fleet.say(f"{host.name}: send {key} to the coordinator's operator; write what comes back as")
                self._fleet.say(f'{host.name}: invitation = "FILE" into {inventory}, and run this again')
                continue
            if nodes is None:
                nodes = coordinator.nodes()
            write_whole(path, coordinator.enrol(host.name, worker.key(), "site", nodes))

    def _run_site(self, worker: Worker) -> None:
        if worker.host.name in self._waiting:
            return
        path = worker.host.invitation or self._fleet.home.invitation(worker.host.name)
        worker.join(path.read_bytes())
        worker.start()
        self._proofs[worker.host.name] = worker.prove()


def upgrade(fleet: Fleet) -> dict[str, Any]:
    """Bring this checkout's release to machines that run another one: the coordinator first, then sites, one by one."""
    with fleet.home.locked():
        made = fleet.made()
        shipper: Shipper = fleet.shipper()
        changed = []
        for host in sorted(fleet.chosen, key=lambda host: host.role != "coordinator"):
            connection = fleet.connect(host, "upgrade", True, made.get(fleet.inventory.label(host)))
            worker = fleet.worker(host, connection, fleet.wish(host), shipper)
            if not worker.facts.release:
                raise SettingsError(f"{host.name} has no release yet", "`up` first")
            if worker.facts.upgrade:
                worker.run("undo", "undoing the upgrade that was interrupted", before=("back",))
                worker.look()
            if worker.facts.prepared != worker.wish.prepared:
                worker.run("prepare", "preparing", host.role, worker.wish.prepared)
            if worker.upgrade():
                changed.append(host.name)
            connection.close()
        return {
            "federation": fleet.inventory.federation,
            "upgraded": changed,
            "did": [asdict(one) for one in fleet.did],
            "shipped": sum(one.size for one in fleet.did if one.step == "images"),
        }


def rollback(fleet: Fleet) -> dict[str, Any]:
    """Put the release before the current one back, code only: sites have seen newer records than its data."""
    with fleet.home.locked():
        made = fleet.made()
        done = {}
        for host in fleet.chosen:
            connection = fleet.connect(host, "rollback", True, made.get(fleet.inventory.label(host)))
            worker = fleet.worker(host, connection, None, None)
            older = [number for number in worker.facts.releases if number < worker.facts.release]
            if not older:
                raise SettingsError(f"{host.name} has no release before {worker.facts.release}")
            worker.switch(str(older[-1]), back=True)
            done[host.name] = older[-1]
            connection.close()
        return {"federation": fleet.inventory.federation, "releases": done, "did": [asdict(one) for one in fleet.did]}

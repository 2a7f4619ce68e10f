"""`down`: off the machines again, with the proof that nothing is left that bills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedssh.errors import AgentError, SettingsError
from fleet.fleet import Fleet
from fleet.inventory import Cloud, Host


class LeftError(AgentError):
    """Something is still there that bills."""


def down(fleet: Fleet, purge: bool, confirm: Callable[[list[str]], bool]) -> dict[str, Any]:
    """Remove everything from given machines, delete what was made in the cloud, and look again.

    Args:
        purge: Also the data and keys on given machines.
        confirm: Gets the lines that say what goes; nothing is done when it returns False.

    Raises:
        SettingsError: It was not confirmed.
        LeftError: Something of it is still there; run it again.
    """
    with fleet.home.locked():
        chosen = fleet.chosen
        labels = {fleet.inventory.label(host): host.name for host in chosen if isinstance(host.place, Cloud)}
        things = [thing for thing in _things(fleet) if fleet.options.only is None or thing.label in labels]
        given = [host for host in chosen if not isinstance(host.place, Cloud)]
        lines = [f"{thing.kind} {thing.label}" for thing in things]
        lines += [
            f"{host.place}: its rooms{', data and keys' if purge else '; /var/lib/fedssh stays'}" for host in given
        ]
        if not lines:
            return {"federation": fleet.inventory.federation, "deleted": [], "removed": []}
        if not confirm(lines):
            raise SettingsError("nothing was done", "say yes with the federation's name, or give --yes")
        removed, errors = fleet.each(given, lambda host: _remove(fleet, host, purge))
        order = {"machine": 0, "firewall": 1, "volume": 2}
        for thing in sorted(things, key=lambda thing: order.get(thing.kind, 3)):
            fleet.say(f"deleting {thing.kind} {thing.label}")
            fleet.account.delete(thing)
            if thing.kind == "machine":
                fleet.forget(thing.label)
        _forget_invitations(fleet, chosen, purge)
        left = [thing for thing in _things(fleet) if fleet.options.only is None or thing.label in labels]
        if left or errors:
            said = [f"{thing.kind} {thing.label} is still there" for thing in left] + [
                str(error) for error in errors.values()
            ]
            raise LeftError("; ".join(said), "run it again")
        return {
            "federation": fleet.inventory.federation,
            "deleted": [f"{thing.kind} {thing.label}" for thing in things],
            "removed": sorted(removed),
        }


def _things(fleet: Fleet) -> list[Any]:
    return fleet.account.things(fleet.inventory.tag) if fleet.in_cloud() else []


def _remove(fleet: Fleet, host: Host, purge: bool) -> None:
    fleet.say(f"{host.name}: removing its rooms")
    connection = fleet.connect(host, "down", True)
    try:
        connection.run("remove", "purge" if purge else "keep")
    finally:
        connection.close()


def _forget_invitations(fleet: Fleet, chosen: tuple[Host, ...], purge: bool) -> None:
    """A coordinator that is gone has invited nobody."""
    gone = [host for host in chosen if purge or isinstance(host.place, Cloud)]
    if any(host.role == "coordinator" for host in gone):
        for path in (fleet.home.path / "invitations").glob("*.json"):
            path.unlink()
    for host in gone:
        fleet.home.invitation(host.name).unlink(missing_ok=True)
        fleet.home.key(host.name).unlink(missing_ok=True)

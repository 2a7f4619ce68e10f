"""The command behind `scripts/deploy`."""

from __future__ import annotations

import datetime
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from fedssh.commands import entry, new_group, path_argument, print_json, print_table, printable
from fedssh.errors import SettingsError
from fleet.fleet import TOKEN, Fleet, Options
from fleet.inventory import read

CHANGES = 10
EXAMPLES = """\
\b
Example:
  scripts/deploy plan fleet.toml
  scripts/deploy up fleet.toml
  scripts/deploy down fleet.toml
"""


class Verbs(click.Group):
    """Shows the commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names as they were added."""
        return list(self.commands)


group = new_group("deploy", "Bring a federation onto machines, keep it there, and take it off again.")
group.__class__ = Verbs
group.epilog = EXAMPLES


def _verb(name: str, *more: Callable[[Any], Any], host: bool = False) -> Callable[[Callable[..., Any]], click.Command]:
    """A command about an inventory, with what all of them have."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        command: Any = function
        for one in reversed(more):
            command = one(command)
        command = click.option("--json", "as_json", is_flag=True, help="Print JSON; progress stays on standard error.")(
            command
        )
        if not host:
            command = click.option("--only", metavar="NAME", help="Only this host: coordinator, or a site.")(command)
        command = click.argument("inventory", metavar="fleet.toml", type=path_argument(exists=False))(command)
        words = " hospital-a" if host else ""
        return group.command(name, epilog=f"Example:  scripts/deploy {name} fleet.toml{words}")(command)

    return decorate


_force = click.option("--force", is_flag=True, help="Try what does not fit, too.")
_tar = click.option(
    "--ship", type=click.Choice(["layers", "tar"]), default="layers", show_default=True,
    help="Missing layers through a forwarded port, or whole images.",
)  # fmt: skip
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_name = click.argument("name")


def _fleet(inventory: Path, only: str | None = None, force: bool = False, ship: str = "layers") -> Fleet:
    return Fleet(read(inventory), Options(only, force, ship == "tar", _token()), _say)


@functools.cache
def _token() -> str:
    """The cloud's token, taken out of the environment: `ssh` and `docker` that are started here do not get it."""
    return os.environ.pop(TOKEN, "")


def _say(text: str) -> None:
    click.echo(f"deploy: {printable(text)}", err=True)


@_verb("plan", _force)
def plan(inventory: Path, only: str | None, as_json: bool, force: bool) -> None:
    """Show what is missing, whether it fits and what it costs. Changes nothing.

    Exit code 0: nothing to do, 10: something.
    """
    from fleet.up import planned

    with _fleet(inventory, only, force) as fleet:
        found = planned(fleet)
    if as_json:
        print_json(found)
    else:
        print_table(
            ("HOST", "STEP", "BY", "WHAT"), [(s["host"], s["name"], s["verb"], s["text"]) for s in found["steps"]]
        )
        _print_price(found)
    if any(step["verb"] != "wait" for step in found["steps"]):
        sys.exit(CHANGES)


def _print_price(found: dict[str, Any]) -> None:
    if not found["prices"]:
        return
    click.echo()
    rows = [
        (one["host"], one["kind"], _dollars(one["hourly"], 4), _dollars(one["monthly"], 2)) for one in found["prices"]
    ]
    print_table(
        ("HOST", "TYPE", "PER HOUR", "PER MONTH"),
        [*rows, ("all", "", _dollars(found["hourly"], 4), _dollars(found["monthly"], 2))],
    )
    if found["not_published"]:
        click.echo(f"without the price of {', '.join(found['not_published'])}, which is not published")


def _dollars(amount: float | None, digits: int) -> str:
    return "not published" if amount is None else f"${amount:.{digits}f}"


@_verb("up", _force, _tar)
def up(inventory: Path, only: str | None, as_json: bool, force: bool, ship: str) -> None:
    """Make what is missing, from machines to a proof that it works. Killed anywhere, the next one goes on."""
    from fleet.up import up as do

    with _fleet(inventory, only, force, ship) as fleet:
        found = do(fleet)
    if as_json:
        print_json(found)
        return
    steps = len(found["did"])
    click.echo(f"{found['federation']}: {steps} steps done" if steps else f"{found['federation']}: nothing to do")
    for name, proof in sorted(found["proof"].items()):
        click.echo(f"  {name}: {printable(proof)}")
    if found["waiting_for_upgrade"]:
        click.echo(
            f"another release than this checkout's: {', '.join(found['waiting_for_upgrade'])}; scripts/deploy upgrade"
        )


@_verb("status")
def status(inventory: Path, only: str | None, as_json: bool) -> None:
    """Show every host and its rooms. Exit code 1: something is not well."""
    from fleet.show import status as look

    with _fleet(inventory, only) as fleet:
        found = look(fleet)
    if as_json:
        print_json(found)
    else:
        rows = []
        for host in found["hosts"]:
            rooms = " ".join(f"{name}:{room['status']}" for name, room in host.get("rooms", {}).items())
            free = f"{host['disk_free'] / 1e9:.0f} GB" if "disk_free" in host else None
            rows.append(
                (host["host"], host["state"], host.get("release"), rooms or host.get("error"), free, host.get("busy"))
            )
        print_table(("HOST", "STATE", "RELEASE", "ROOMS", "DISK FREE", "BUSY"), rows)
        for host in found["hosts"]:
            if "federation" in host:
                state = host["federation"]
                click.echo(printable(f"{state['federation']}: {state['state']}, {state['records']} records"))
    if any(host["state"] != "well" for host in found["hosts"]):
        sys.exit(1)


@_verb(
    "logs", _name, click.option("--room", metavar="ROOM", help="alice, bob, charity or door.  [both of the host]"),
    click.option("--last", default=100, show_default=True, metavar="N", help="How many lines."),
    click.option("--follow", is_flag=True, help="Go on until Ctrl-C."), host=True,
)  # fmt: skip
def logs(inventory: Path, name: str, room: str | None, last: int, follow: bool, as_json: bool) -> None:
    """Print what the rooms of NAME said; with --json in lines of JSON."""
    from fleet.show import logs as show

    with _fleet(inventory) as fleet:
        sys.exit(show(fleet, name, room, last, follow, as_json))


@_verb("ssh", _name, click.argument("words", nargs=-1, metavar="[COMMAND]…"), host=True)
def ssh(inventory: Path, name: str, words: tuple[str, ...], as_json: bool) -> None:
    """Log in on NAME with the pinned host key; with --json, print the command line instead."""
    from fleet.show import ssh as become

    with _fleet(inventory) as fleet:
        command = become(fleet, name, words, as_json)
    print_json({"command": command})


@_verb("upgrade", _tar)
def upgrade(inventory: Path, only: str | None, as_json: bool, ship: str) -> None:
    """Bring this checkout's release to machines that run another: the coordinator first. What fails undoes itself."""
    from fleet.up import upgrade as do

    with _fleet(inventory, only, ship=ship) as fleet:
        found = do(fleet)
    if as_json:
        print_json(found)
        return
    names = ", ".join(found["upgraded"])
    click.echo(
        f"upgraded {names}, {found['shipped'] / 1e6:.2f} MB shipped" if names else "every host runs this release"
    )


@_verb("rollback", _yes)
def rollback(inventory: Path, only: str | None, as_json: bool, yes: bool) -> None:
    """Put the release before the current one back: code only, never data."""
    from fleet.up import rollback as do

    with _fleet(inventory, only) as fleet:
        _ask(yes, f"go back to the release before on {', '.join(host.name for host in fleet.chosen)}?")
        found = do(fleet)
    if as_json:
        print_json(found)
        return
    for name, number in found["releases"].items():
        click.echo(f"{name} runs release {number}")


@_verb("backup")
def backup(inventory: Path, only: str | None, as_json: bool) -> None:
    """Fetch keys, history and data, sealed on their machine for the inventory's [backup] recipients."""
    from fleet.keep import backup as do

    with _fleet(inventory, only) as fleet:
        found = do(fleet, datetime.datetime.now(datetime.UTC))
    if as_json:
        print_json(found)
        return
    for name, one in found["backups"].items():
        click.echo(f"{name}: {one['file']}, {one['size'] / 1e6:.1f} MB")


@_verb(
    "restore", _name, click.argument("file", type=path_argument()),
    click.option("--identity", type=path_argument(), required=True, help="The private key that opens it; stays here."),
    _yes, host=True,
)  # fmt: skip
def restore(inventory: Path, name: str, file: Path, identity: Path, yes: bool, as_json: bool) -> None:
    """Put a backup FILE in the place of what NAME has; that is kept aside on the machine."""
    from fleet.keep import restore as do

    with _fleet(inventory) as fleet:
        _ask(yes, f"replace what {name} has by {file.name}?")
        found = do(fleet, name, file, identity)
    if as_json:
        print_json(found)
        return
    click.echo(f"{name} is restored; what was there lies in /var/lib/fedssh/{found['aside']}")


@_verb("cost")
def cost(inventory: Path, only: str | None, as_json: bool) -> None:
    """Show what bills in the cloud, since when, and what it came to."""
    from fleet.show import cost as look

    with _fleet(inventory, only) as fleet:
        found = look(fleet, datetime.datetime.now(datetime.UTC))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["machine"],
            one["type"],
            one["status"],
            one.get("hours"),
            _dollars(one["hourly"], 4),
            _dollars(one.get("so_far"), 2),
        )
        for one in found["machines"]
    ]
    print_table(("MACHINE", "TYPE", "STATUS", "HOURS", "PER HOUR", "SO FAR"), rows)
    click.echo(
        f"so far ${found['so_far']:.2f}; ${found['hourly']:.4f} an hour, at most ${found['monthly']:.2f} a month"
    )


@_verb(
    "down", _yes, click.option("--purge", is_flag=True, help="On given machines: their data and keys as well."),
    click.option("--backup/--no-backup", "keep", default=None, help="Fetch a last backup first.  [ask]"),
)  # fmt: skip
def down(inventory: Path, only: str | None, as_json: bool, yes: bool, purge: bool, keep: bool | None) -> None:
    """Take it off again: delete machines, firewalls and volumes, and prove that nothing is left that bills."""
    from fleet.down import down as do

    with _fleet(inventory, only) as fleet:
        _last_backup(fleet, keep, yes)
    with _fleet(inventory, only) as fleet:
        found = do(fleet, purge, lambda lines: yes or _confirmed(fleet.inventory.federation, lines))
    if as_json:
        print_json(found)
        return
    gone = len(found["deleted"]) + len(found["removed"])
    click.echo(f"{found['federation']}: {gone} removed, nothing is left" if gone else "there was nothing")


def _last_backup(fleet: Fleet, keep: bool | None, yes: bool) -> None:
    if keep is None and not yes and sys.stdin.isatty() and fleet.inventory.recipients:
        keep = click.confirm("fetch a last backup first?", default=True, err=True)
    if keep:
        from fleet.keep import backup as do

        do(fleet, datetime.datetime.now(datetime.UTC))


def _confirmed(federation: str, lines: list[str]) -> bool:
    for line in lines:
        click.echo(f"  {printable(line)}", err=True)
    if not sys.stdin.isatty():
        raise SettingsError("nobody is here to confirm it", "give --yes")
    answer: str = click.prompt("all of this goes; the federation's name", default="", show_default=False, err=True)
    return answer == federation


def _ask(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError("nobody is here to confirm it", "give --yes")
    if not click.confirm(question, err=True):
        raise SettingsError("nothing was done")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; SIGTERM and a lost terminal end it as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    entry(group, "deploy")


if __name__ == "__main__":
    main()

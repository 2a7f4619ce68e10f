"""The command line of Bob. Loads no SSH and no encryption before a verb needs it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fedssh.bob.settings import JoinSettings, StateSettings, StatusSettings, WatchSettings
from fedssh.commands import entry, new_group, print_json, print_table, printable, settings_options, stop_event, tell
from fedssh.errors import SettingsError, UnreachableError
from fedssh.settings import describe

if TYPE_CHECKING:
    from fedssh.address import Way
    from fedssh.bob.site import Folder, Site

log = logging.getLogger("bob")
say = partial(tell, log)

group = new_group(
    "bob",
    "Ships what Alice trained to the coordinator, over SSH, and brings back verdicts and releases.\n\n"
    "A site starts with keygen, then join, then watch.",
)
group.epilog = "\b\nExample:\n  bob watch --state /var/lib/fedssh/site --exchange /var/lib/fedssh/exchange"


def main() -> None:
    """Run `bob` and exit."""
    entry(group, "bob")


@group.command(epilog="Example:  bob keygen --state site && cat site/site_key.pub")
@settings_options(StateSettings, "bob")
def keygen(settings: StateSettings) -> None:
    """Make this site's one key: it logs in, signs, and opens releases."""
    import socket

    from fedssh.bob.site import Folder
    from fedssh.keys import make_key

    folder = Folder(settings.state)
    key = make_key(folder.key, f"fedssh@{socket.gethostname()}")
    print(f"made {folder.key}, which stays here, and {folder.key}.pub")
    print(f"fingerprint {key.public.fingerprint}")
    print("send the coordinator this line, and tell the fingerprint by another way, such as the phone:")
    print(f"{folder.key.with_name('site_key.pub').read_text().strip()}")


@group.command(epilog="Example:  bob join invitation.json   or   bob join - < invitation.json")
@click.argument("invitation", type=click.File("r"))
@click.option("--again", is_flag=True, help="Accept another host key or coordinator than before.")
@click.option("--offline", is_flag=True, help="Do not try the connection.")
@settings_options(JoinSettings, "bob")
def join(invitation: TextIO, again: bool, offline: bool, settings: JoinSettings) -> None:
    """Join a coordinator by the INVITATION that `charity nodes add` printed (a file, or - for standard input)."""
    from fedssh.bob import site as sites
    from fedssh.bob.way import keep_way, way_out
    from fedssh.forms import fingerprint

    folder = sites.Folder(settings.state)
    key = sites.load_key(folder)
    invited = sites.seen_at(sites.read_invitation(invitation.read(sites.MAX_BYTES), key.public), settings.address)
    keep_way(folder, settings, settings.via_host_key, again)
    site = sites.join(folder, invited, again)
    way = way_out(folder, settings)
    print(f"{site.name} works with {site.address}{f' through {way.via}' if way else ''}")
    print(f"  host key         {fingerprint(site.host_key)}")
    print(f"  coordinator key  {site.coordinator.fingerprint}")
    print(f"  genesis          {site.genesis or 'not named by this invitation, so it is not pinned'}")
    print("compare them with the coordinator's operator by another way, such as the phone")
    if offline:
        return
    _try_connection(folder, site, settings.timeout, way)
    print("the door lets this site in; next: bob watch")


def _try_connection(folder: Folder, site: Site, timeout: float, way: Way | None) -> None:
    from fedssh.transport import Connection

    try:
        connection = Connection(site.door, folder.key, folder.known_hosts, timeout, way)
        try:
            answer = connection.ask("status", timeout=timeout)
        finally:
            connection.close()
        if answer.status:
            raise answer.error(connection.address, "status")
    except UnreachableError as error:
        raise UnreachableError(str(error), "this site has joined all the same; `bob watch` tries again") from None


@group.command(epilog="Example:  bob watch --state site --exchange exchange   (Ctrl-C ends it; nothing is lost)")
@settings_options(WatchSettings, "bob")
def watch(settings: WatchSettings) -> None:
    """Ship each checkpoint that Alice publishes, and bring in each release.

    What cannot be shipped waits in the spool. A door that is away, or that does not let this site in, is asked again.

    Exit codes: 0 told to stop, 1 something went wrong, 2 wrong settings (with --drain also: not let in), 3 an untrusted
    answer, another host key or a link in the exchange: look at it, 4 only with --drain: no door answered.
    """
    stop = stop_event()
    from fedssh.bob.watch import Bob

    bob = Bob(settings, say, stop)
    say("started", f"{bob.introduction}; {describe(settings)}", **bob.introduction_fields)
    bob.run()


@group.command(epilog="Example:  bob status --state site --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options(StatusSettings, "bob")
def status(as_json: bool, settings: StatusSettings) -> None:
    """Show whom this site works with, what waits, and what came of what it sent."""
    from fedssh.bob.status import describe_site, lines

    found = describe_site(settings.state, settings.exchange)
    if as_json:
        print_json(found)
    else:
        for name, text in lines(found):
            print(f"{name:<12} {printable(text)}")


@group.command(epilog="Example:  bob receipts --state site --last 20")
@click.option("--last", default=20, show_default=True, metavar="N", help="How many, the newest last; 0 for all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options(StateSettings, "bob")
def receipts(last: int, as_json: bool, settings: StateSettings) -> None:
    """List what left this site, byte for byte accounted for."""
    from collections import deque

    from fedssh.bob.receipts import Receipts
    from fedssh.bob.site import Folder

    if last < 0:
        raise SettingsError(f"--last is {last}, expected a number from 0")
    found = list(deque(Receipts(Folder(Path(settings.state)).receipts), maxlen=last or None))
    if as_json:
        print_json(found)
        return
    columns = ("time", "kind", "session", "epoch", "bytes", "sha256", "verdict", "record", "reason")
    rows = [
        (one["time"], one["kind"], one["session"], one["epoch"], f"{one['size']:,}", one["sha256"][:12], one["verdict"],
         one["sequence"], one["reason"])
        for one in found
    ]  # fmt: skip
    print_table(columns, rows)


peers = new_group("peers", "The other sites, as people have named them: whom this site masks its updates with.")
peers.epilog = "\b\nExample:\n  bob peers add alice-2 alice-2.pub --state site && bob peers list --state site"
group.add_command(peers)


@peers.command("add", epilog="Example:  bob peers add alice-2 alice-2.pub --state site")
@click.argument("name")
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--again", is_flag=True, help="Accept another key than the one that stands there.")
@settings_options(StateSettings, "bob")
def peers_add(name: str, key: Path, again: bool, settings: StateSettings) -> None:
    """Name the site NAME to this one, by its public KEY file, which people there have given you."""
    from fedssh.bob import peers as known
    from fedssh.bob.site import Folder

    found = known.add(Folder(settings.state), name, key, again=again)
    print(f"{name} is a peer with the key {found.fingerprint}")
    print("compare it with the people there by another way than the coordinator, such as the phone")


@peers.command("remove", epilog="Example:  bob peers remove alice-2 --state site")
@click.argument("name")
@settings_options(StateSettings, "bob")
def peers_remove(name: str, settings: StateSettings) -> None:
    """Take no part any more in rounds with the site NAME."""
    from fedssh.bob import peers as known
    from fedssh.bob.site import Folder

    known.remove(Folder(settings.state), name)
    print(f"{name} is no peer any more")


@peers.command("list", epilog="Example:  bob peers list --state site --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options(StateSettings, "bob")
def peers_list(as_json: bool, settings: StateSettings) -> None:
    """Show whom this site masks its updates with: a round with anybody else in it is refused."""
    from fedssh.bob import peers as known
    from fedssh.bob.site import Folder

    found = {name: key.fingerprint for name, key in known.pinned(Folder(settings.state)).items()}
    if as_json:
        print_json([{"name": name, "fingerprint": fingerprint} for name, fingerprint in found.items()])
    else:
        print_table(("peer", "key"), list(found.items()))


if __name__ == "__main__":
    main()

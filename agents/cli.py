"""The command `fedssh`: the three agents under one name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from fedssh.commands import entry, new_group, path_argument, print_json
from fedssh.errors import SettingsError

AGENTS = {
    "alice": "Train on local data; sees no network and no key.",
    "bob": "Ship what Alice trained, bring back releases; sees no data.",
    "charity": "Judge what arrives, keep the best, write down why.",
}


ROLES = ("site", "bob", "coordinator", "auditor")
_ROLES = "Whose machine it is: site, bob (without Alice), coordinator, auditor."
_STATES = ["BOB_STATE", "CHARITY_STATE", "ALICE_STATE"]


class Fedssh(click.Group):
    """Loads an agent's commands when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The agents first, none of which is loaded for it."""
        return [*AGENTS, *self.commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A command of its own, or what `--help` shows of an agent."""
        if name not in AGENTS:
            return super().get_command(ctx, name)
        return click.Command(name, help=AGENTS[name])  # for --help; `main` has handed the others on


fedssh = new_group("fedssh", "Train one Keras model across sites that may not share their data, over nothing but SSH.")
fedssh.__class__ = Fedssh
fedssh.epilog = "Example:  fedssh bob join invitation.json"


@fedssh.command(epilog="Example:  fedssh verify ledger.jsonl --signers allowed_signers")
@click.argument("history", metavar="FILE", type=path_argument())
@click.option("--signers", type=path_argument(), help="Its allowed_signers; else her key is what record 1 says.")
@click.option("--head", metavar="HASH", help="The hash of a record, noted earlier, that must be in the history.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(history: Path, signers: Path | None, head: str | None, as_json: bool) -> None:
    """Recompute an exported history: every hash, link, signature and decision.

    FILE is what `ssh charity@HOST history --export` prints. Exit code 3: it is not as it must be; the record is named.
    """
    from fedssh.history.text import verify_text
    from fedssh.verify import check_export

    value = check_export(history, signers, head)
    if as_json:
        print_json(value)
        return
    click.echo(verify_text(value), nl=False)
    if signers is None:
        click.echo(f"signed by {value['coordinator']}, which record 1 names: compare it with the coordinator's")


@fedssh.command(epilog="Example:  fedssh doctor --state site --via socks5://proxy.example:1080")
@click.option(
    "--state",
    type=path_argument(False),
    metavar="DIR",
    envvar=_STATES,
    help="The agent's folder.  [default: what is here]",
)
@click.option("--role", type=click.Choice(ROLES), metavar="ROLE", help=f"{_ROLES}  [default: as --state looks]")
@click.option("--invitation", type=path_argument(False), metavar="FILE", help="An invitation that was not joined yet.")
@click.option(
    "--data", type=path_argument(False), metavar="FILE|DIR", help="Images to look at: an .npz file or a folder."
)
@click.option(
    "--listen", metavar="HOST:PORT", envvar="CHARITY_LISTEN", help="Where her door listens.  [default: 0.0.0.0:2222]"
)
@click.option("--via", envvar="BOB_VIA", metavar="URL", help="The way out, as for `bob join`.")
@click.option("--via-key", type=path_argument(False), metavar="FILE", envvar="BOB_VIA_KEY", help="As for `bob join`.")
@click.option(
    "--via-known-hosts",
    type=path_argument(False),
    metavar="FILE",
    envvar="BOB_VIA_KNOWN_HOSTS",
    help="As for `bob join`.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 60),
    default=10.0,
    metavar="SECONDS",
    help="For a host to answer.  [default: 10]",
)
@click.option("--engine", is_flag=True, help="A Docker engine is needed, not only welcome.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool, **said: Any) -> None:
    """Look at this machine: what would keep an agent from working here, and what to do about it.

    Nothing is changed, and nothing is sent but the beginning of an SSH connection to the door.

    Exit codes: 0 all is well, or a warning, 1 something failed, 3 the host key is not the pinned one: look at it.
    """
    from fedssh.doctor.report import report

    sys.exit(report(said, as_json))


@fedssh.command(epilog="Example:  fedssh watch charity@charity.example:2222 --signers allowed_signers")
@click.argument("place", metavar="[USER@]HOST[:PORT]")
@click.option("-p", "--port", type=click.IntRange(1, 65535), metavar="PORT", help="The door's port, as `ssh -p`.")
@click.option(
    "-i", "--identity", "identities", multiple=True, type=path_argument(False), metavar="FILE", help="As `ssh -i`."
)
@click.option(
    "-o", "--option", "options", multiple=True, metavar="OPTION", help="As `ssh -o`, such as ProxyJump=jump.example."
)
@click.option("--known-hosts", type=path_argument(), metavar="FILE", help="Host keys; else those that your ssh knows.")
@click.option("--signers", type=path_argument(), metavar="FILE", help="allowed_signers with the coordinator's key.")
@click.option(
    "--invitation",
    type=path_argument(),
    metavar="FILE",
    help="An invitation, which names her key and the first record.",
)
@click.option("--once", is_flag=True, help="Print all of it as text, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
def watch(**said: Any) -> None:
    """Follow a federation on a live screen: sites, the score over time, verdicts as they come, the best model.

    The history comes through your own ssh, with its configuration, agent and known hosts. Each record is checked as a
    site does it before it is shown. Without --signers and --invitation the key is the one that record 1 names: compare
    it once; it is remembered, with the newest record. Leave with q.

    Exit codes: 0 left, 1 something else failed, 2 fix the command or what it names, 3 not as it must be: look at it,
    4 (--once) no answer, 130 Ctrl-C.
    """
    try:
        from fedssh.watch import command
    except ModuleNotFoundError as error:
        raise SettingsError(f"{str(error.name).partition('.')[0]} is missing", "pip install 'fedssh[look]'") from None
    sys.exit(command.watch(command.Watched(**said)))


def main() -> None:
    """Run an agent's command line, or one of our own."""
    if len(sys.argv) > 1 and sys.argv[1] in AGENTS:
        agent = sys.argv.pop(1)
        importlib.import_module(f"fedssh.{agent}.cli").main()
    else:
        entry(fedssh, "fedssh")


if __name__ == "__main__":
    main()

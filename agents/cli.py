"""The command `fedssh`: the three agents under one name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from fedssh.commands import entry, new_group, path_argument, print_json

AGENTS = {
    "alice": "Train on local data; sees no network and no key.",
    "bob": "Ship what Alice trained, bring back releases; sees no data.",
    "charity": "Judge what arrives, keep the best, write down why.",
}


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


def main() -> None:
    """Run an agent's command line, or one of our own."""
    if len(sys.argv) > 1 and sys.argv[1] in AGENTS:
        agent = sys.argv.pop(1)
        importlib.import_module(f"fedssh.{agent}.cli").main()
    else:
        entry(fedssh, "fedssh")


if __name__ == "__main__":
    main()

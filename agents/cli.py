"""The command `fedssh`: the three agents under one name."""

from __future__ import annotations

import importlib
import sys

import click

from fedssh.commands import entry, new_group

AGENTS = {
    "alice": "Train on local data; sees no network and no key.",
    "bob": "Ship what Alice trained, bring back releases; sees no data.",
    "charity": "Judge what arrives, keep the best, write down why.",
}


class Fedssh(click.Group):
    """Loads an agent's commands when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*AGENTS, *self.commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in AGENTS:
            return super().get_command(ctx, name)
        return click.Command(name, help=AGENTS[name])  # for --help; `main` has handed the others on


fedssh = new_group("fedssh", "Train one Keras model across sites that may not share their data, over nothing but SSH.")
fedssh.__class__ = Fedssh
fedssh.epilog = "Example:  fedssh bob join invitation.json"


def main() -> None:
    """Run an agent's command line, or one of our own."""
    if len(sys.argv) > 1 and sys.argv[1] in AGENTS:
        agent = sys.argv.pop(1)
        importlib.import_module(f"fedssh.{agent}.cli").main()
    else:
        entry(fedssh, "fedssh")


if __name__ == "__main__":
    main()

"""The environment variables: those of the agents, which are their options, and the few others."""

from __future__ import annotations

import click

from scripts.pages import commands, prose, table

INTRODUCTION = """\
# Environment variables

Every option of a setting is a variable, too: `--wait` of `bob watch` is `BOB_WAIT`. A flag beats a variable, a variable
beats a file (`--terms`), a file beats the default. A variable with an agent's prefix that is no setting is an error; it
names the nearest one.
"""
DEMONSTRATED = ("DATASET", "PARTITION", "POLICY", "GATE", "SESSIONS", "EPOCHS", "SCHEDULE", "SEED")
OTHERS = {
    "ALICE_DEBUG, BOB_DEBUG, CHARITY_DEBUG": "As `--debug`.",
    "ALICE_LOG_FORMAT, BOB_LOG_FORMAT, CHARITY_LOG_FORMAT": "As `--log-format`.",
    "FEDSSH_DATA": "Where data sets are, for `scripts`, tests and `docker compose`; `./data` without it.",
    ", ".join(f"FEDSSH_{name}" for name in DEMONSTRATED): (
        "What `docker compose up` demonstrates, as the options of [scripts/quickstart](scripts.md)."
    ),
    "FEDSSH_PRIVACY": "How `docker compose up` hides images, as `charity init --privacy`; not at all without it.",
    "FEDSSH_PORT": "Where `docker compose up` publishes the door; 2222 without it.",
    "FEDSSH_NETWORKS": "Folders with networks of your own, with `:` between them; as `--networks`.",
    "FEDSSH_PYTHON": "Which Python the programs in `scripts` begin with.",
    "KERAS_BACKEND": "Of a [script of your own](../how-to/own-training.md): `tensorflow`, `jax` or `torch`.",
    "LINODE_TOKEN": "The token of a Linode account, for `scripts/deploy`; no program that it starts gets it.",
    "NO_COLOR": "No colours in the quickstart's lines (no-color.org).",
}


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION.strip()]
    for program in ("alice", "bob", "charity"):
        rows = [(f"`{name}`", ", ".join(verbs), prose(means)) for name, (verbs, means) in sorted(_of(program).items())]
        parts += [f"## {program.capitalize()}", table(("variable", "verbs", "what it does"), rows)]
    parts += ["## Others", table(("variable", "what it does"), [(_names(key), text) for key, text in OTHERS.items()])]
    return "\n\n".join([*parts, "Made from the code by `scripts/reference`."]) + "\n"


def _of(program: str) -> dict[str, tuple[list[str], str]]:
    """An agent's variables: the verbs that read each, and what it does for the first of them."""
    found: dict[str, tuple[list[str], str]] = {}
    for words, command in commands.leaves(program):
        for option in command.params:
            if isinstance(option, click.Option):
                for name in commands.variable_of(command, option):
                    verbs, _ = found.setdefault(name, ([], commands.meaning_of(option)[0]))
                    verbs.append(" ".join(words[1:]))
    return found


def _names(key: str) -> str:
    return ", ".join(f"`{name}`" for name in key.split(", "))

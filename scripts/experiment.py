"""Run an experiment, see experiments/; the first run makes .venv from locks/experiment.txt."""

from __future__ import annotations

import os

from experiments import cli  # the list of experiments needs nothing that has to be installed
from scripts import environment


def main(arguments: list[str]) -> int:
    """Hand over to the environment's interpreter, in the same process, unless there is only something to show."""
    if not (arguments and arguments[0] in cli.OWN) and cli.parse(arguments).list:
        return cli.main(arguments)
    programs = environment.ensure("experiment")
    python = str(programs / "python")
    return os.execv(python, [python, "-P", "-m", "experiments.cli", *arguments])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    environment.run("experiment", main)

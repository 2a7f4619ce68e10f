"""Run an experiment, see experiments/; the first run makes .venv from locks/experiment.txt."""

from __future__ import annotations

import os
import sys

import environment

sys.path.append(str(environment.ROOT))  # the list of experiments needs nothing that has to be installed
from experiments import cli


def main(arguments: list[str]) -> int:
    """Hand over to the environment's interpreter, in the same process, unless there is only something to show."""
    if cli.parse(arguments).list:
        return cli.main(arguments)
    try:
        programs = environment.ensure("experiment")
    except environment.InstallError as error:
        print(f"experiment: error: {error}", file=sys.stderr)
        return 1
    os.environ["PYTHONPATH"] = os.pathsep.join([str(environment.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    python = str(programs / "python")
    os.execv(python, [python, "-m", "experiments.cli", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

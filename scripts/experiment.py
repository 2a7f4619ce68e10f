"""Run an experiment, see experiments/; the first run makes .venv from locks/experiment.txt."""

from __future__ import annotations

import os
import subprocess
import sys

import environment


def main(arguments: list[str]) -> int:
    """Hand over to the environment's interpreter, in the same process."""
    try:
        programs = environment.ensure("experiment")
    except subprocess.CalledProcessError as error:
        print("experiment: error: the environment could not be made; pip says why above", file=sys.stderr)
        return error.returncode
    os.environ["PYTHONPATH"] = os.pathsep.join([str(environment.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    python = str(programs / "python")
    os.execv(python, [python, "-m", "experiments.cli", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

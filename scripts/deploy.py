"""Deploy a federation to machines, see fleet/; the first run makes .venv from locks/deploy.txt."""

from __future__ import annotations

import os

from scripts import environment


def main(arguments: list[str]) -> int:
    """Hand over to the environment's interpreter, in the same process."""
    python = str(environment.ensure("deploy") / "python")
    return os.execv(python, [python, "-P", "-m", "fleet.cli", *arguments])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    environment.run("deploy", main)

"""Measure the way of a checkpoint, see tests/benchmarks/path.py; the first run makes .venv from locks/dev.txt."""

from __future__ import annotations

import os
import subprocess
import sys

import environment


def main(arguments: list[str]) -> int:
    programs = environment.ensure("dev")
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    path = environment.ROOT / "tests" / "benchmarks" / "path.py"
    return subprocess.run([str(programs / "python"), str(path), *arguments], check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

"""Measure the way of a checkpoint, see tests/benchmarks/path.py; the first run makes .venv from locks/dev.txt."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import environment


def main(arguments: list[str]) -> int:
    path = environment.ROOT / "tests" / "benchmarks" / "path.py"
    if {"-h", "--help"} & set(arguments):
        print(ast.get_docstring(ast.parse(path.read_text())))
        return 0
    try:
        programs = environment.ensure("dev")
    except environment.InstallError as error:
        print(f"benchmark: error: {error}", file=sys.stderr)
        return 1
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run([str(programs / "python"), str(path), *arguments], check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

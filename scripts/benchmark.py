"""Measure the way of a checkpoint, see tests/benchmarks/path.py; the first run makes .venv from locks/dev.txt."""

from __future__ import annotations

import ast
import os
import subprocess

from scripts import environment


def main(arguments: list[str]) -> int:
    """Measure with the environment's interpreter, or show what is measured; returns the exit code."""
    path = environment.ROOT / "tests" / "benchmarks" / "path.py"
    if {"-h", "--help"} & set(arguments):
        print(ast.get_docstring(ast.parse(path.read_text())))
        return 0
    programs = environment.ensure("dev")
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run([str(programs / "python"), str(path), *arguments], check=False).returncode


if __name__ == "__main__":
    environment.run("benchmark", main)

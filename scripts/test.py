"""Check everything that this machine can check: style, types, walls, unit, integration and end-to-end tests.

    scripts/test                        everything
    scripts/test -k ledger              only pytest, with these arguments
    scripts/test tests/unit -x
    scripts/test --long -k fleet        with what takes too long for everyday

Everything together runs in one process more than there are cores, the tests of a file in one of them, and ends with
the slowest. The first run makes .venv from locks/dev.txt. What could not run here is listed with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from scripts import environment

# The longest first: the short ones fill the gaps.
FOLDERS = ("tests/e2e", "tests/integration", "tests/attacks", "tests/unit")
# One more than there are cores, because many tests wait for something; but few, because every process holds TensorFlow
# and so do the agents that it starts. One thread each then: together they have enough to do.
PROCESSES = min((os.cpu_count() or 1) + 1, 5)
PARALLEL = (f"--numprocesses={PROCESSES}", "--dist=loadfile", "--no-loadscope-reorder")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
SLOWEST = "--durations=15"


def main(arguments: list[str]) -> int:
    """Run every check, or only pytest with these arguments; 0 when nothing failed, what was skipped aside."""
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    programs = environment.ensure("dev")
    os.chdir(environment.ROOT)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    failed = []
    if not arguments:
        for check in (
            ["ruff", "check", "."],
            ["ruff", "format", "--check", "."],
            ["mypy"],
            ["lint-imports", "--no-cache"],
        ):
            print("$", *check, flush=True)
            if subprocess.run([str(programs / check[0]), *check[1:]], check=False).returncode:
                failed.append(" ".join(check[:2]))
    given = any(Path(word.split("::")[0]).exists() for word in arguments)
    usual = [] if arguments else [*PARALLEL, SLOWEST]
    environ = os.environ if arguments else {**ONE_THREAD, **os.environ}
    paths = [] if given else [folder for folder in FOLDERS if Path(folder).is_dir()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [str(programs / "python"), "-m", "pytest", f"--junitxml={report}", *usual, *arguments, *paths]
        outcome = subprocess.run(command, env=environ, check=False).returncode
        skipped = _skipped(report)
    if outcome:
        failed.append("pytest")
    if skipped:
        print("\nnot run on this machine:")
        for reason, tests in skipped.most_common():
            print(f"  {tests} test{'s' if tests > 1 else ''}: {reason}")
    if failed:
        print(f"test: error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _skipped(report: Path) -> Counter[str]:
    """Reasons and how many tests each of them kept from running."""
    if not report.exists():
        return Counter()
    root = ElementTree.parse(report)  # noqa: S314 - pytest has just written it
    return Counter(node.get("message", "") for node in root.iter("skipped"))


if __name__ == "__main__":
    environment.run("test", main)

"""How many hands a bundle goes through: the calls between `settle` and the signed record of its verdict.

    tests/benchmarks/calls.py [--way] [CHECKOUT ...]

Settles one accepted submission in each checkout, with its own Python where it has a .venv, its own test room and the
stand-in judge of that room, and prints the counts side by side. It runs on a checkout whose package is `fedssh` and on
an older one whose package is `agents`.

    files entered          files of the package in which any function ran, until the verdict was published
    functions, all         different functions of the package that ran meanwhile
    calls, all             calls of them, to the last comprehension
    files on the way       the same three of the way alone
    functions on the way
    calls on the way       what somebody has to follow who reads from `settle` to the record

The way begins with `settle` and ends with the call that writes the record. On it are the functions of the coordinator
and of the rules that are called from the way. A call into the bundle or to the judge is a step of it too, but what
they do inside is not followed; what other tools do (ledger, files, keys, model files) is not a step. Looked through,
but not counted, are properties, methods of dataclasses, constructors, and what stands inside another function. Not
counted at last is a leaf, a function that calls nothing of the package: there a reader stops.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

RESULT = "FEDSSH_CALLS"  # the environment variable that names the file for the counts of one checkout
SITE = "alice-1"
ROOMS = ("charity/", "rules/")
TOOLS = ("rules/typed.py",)  # reads and writes JSON
DOORS = (
    "bundle.py",
    "charity/judge_client.py",
    "charity/judge/client.py",
    "charity/bench.py",
)  # a step, and nothing behind it
END = "Ledger.append"


@dataclasses.dataclass
class Call:
    """A call of a function of the package, and the calls that it made."""

    file: str
    code: CodeType
    made: list[Call] = dataclasses.field(default_factory=list)

    @property
    def function(self) -> str:
        return f"{self.file} {self.code.co_qualname}"

    def all(self) -> Iterator[Call]:
        """This call and all below it, in the order in which they were made."""
        yield self
        for call in self.made:
            yield from call.all()


class Watch:
    """Notes the calls of functions whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._files: dict[str, str | None] = {}
        self._stack: list[Call | None] = []
        self.first: Call | None = None

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """For `sys.setprofile`."""
        if event == "call":
            file = self._file(frame.f_code.co_filename)
            call = Call(file, frame.f_code) if file else None
            caller = next((one for one in reversed(self._stack) if one), None)
            if call and caller:
                caller.made.append(call)
            self.first = self.first or call
            self._stack.append(call)
        elif event == "return" and self._stack:
            self._stack.pop()

    def _file(self, name: str) -> str | None:
        if name not in self._files:
            path = Path(name).resolve()
            self._files[name] = str(path.relative_to(self._folder)) if path.is_relative_to(self._folder) else None
        return self._files[name]


def looked_through(package: str) -> set[CodeType]:
    """The properties and the methods of dataclasses of all modules that are loaded."""
    found: set[CodeType] = set()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != package:
            continue
        for of in [each for each in vars(module).values() if inspect.isclass(each)]:
            for member in vars(of).values():
                wanted = [getattr(member, "fget", None), getattr(member, "func", None)]
                wanted += [member] if dataclasses.is_dataclass(of) else []
                found |= {one.__code__ for one in wanted if inspect.isfunction(one)}
    return found


def the_way(first: Call, through: set[CodeType]) -> list[tuple[int, Call]]:
    """The calls that count, each with its depth; see the top of this file."""
    way: list[tuple[int, Call]] = []

    def follow(call: Call, depth: int) -> bool:
        """Whether the record is written."""
        name = call.code.co_qualname
        if name == END:
            way.append((depth, call))
            return True
        hidden = call.code in through or "<" in name or name.endswith("__")
        counts = not hidden and bool(call.made) and call.file.startswith((*ROOMS, *DOORS)) and call.file not in TOOLS
        if counts:
            way.append((depth, call))
        elif call.file in TOOLS or (not hidden and not call.file.startswith(ROOMS)):
            return False  # a tool
        if call.file in DOORS:
            return False
        return any(follow(one, depth + counts) for one in call.made)

    follow(first, 0)
    return way


def test_one_settlement(room: Any) -> None:
    """Not of the suite: run by `count`, in the checkout to be counted, with the room that is a fixture there."""
    package = "fedssh" if Path("fedssh").exists() else "agents"
    bundle, inbox, intake, settle = (
        importlib.import_module(f"{package}.{name}")
        for name in ("bundle", "charity.inbox", "charity.intake", "charity.settle")
    )
    room.submit(SITE, 0.6)
    [path] = (room.folders.inbox / SITE).iterdir()
    room.judge.start()
    watch = Watch(Path(package))

    def settled(taken: Any) -> Any:
        sys.setprofile(watch)
        try:
            return settle.settle(room.vault, room.judge, taken)
        finally:
            sys.setprofile(None)

    if hasattr(intake, "Taken"):
        with bundle.read(inbox.Inbox(room.folders).take(intake.Waiting(SITE, path)).path) as arrived:
            found = settled(intake.Taken(SITE, arrived))
    else:
        found = settled(inbox.Inbox(room.folders).claim(intake.Claimed(SITE, path)))
    assert found.record.event == "accepted"
    assert watch.first is not None
    way = the_way(watch.first, looked_through(package))
    calls, steps = list(watch.first.all()), [call for _, call in way]
    counts = {
        "files entered": len({call.file for call in calls}),
        "functions, all": len({call.function for call in calls}),
        "calls, all": len(calls),
        "files on the way": len({call.file for call in steps}),
        "functions on the way": len({call.function for call in steps}),
        "calls on the way": len(steps),
    }
    lines = [f"{'  ' * depth}{call.function}" for depth, call in way]
    Path(os.environ[RESULT]).write_text(json.dumps({"counts": counts, "way": lines}))


def count(checkout: Path) -> dict[str, Any]:
    """Settle one submission in a checkout; returns the counts and the lines of the way."""
    own = checkout / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "calls.json"
        fixtures = ("-p", "tests.conftest", "-p", "tests.integration.conftest", "--noconftest")
        alone = ("-q", "-c", os.devnull, "--rootdir", str(checkout), "-p", "no:cacheprovider")
        done = subprocess.run(
            [own if own.exists() else sys.executable, "-m", "pytest", *alone, *fixtures, Path(__file__).resolve()],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), RESULT: str(result)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{checkout} could not be counted:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(result.read_bytes())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", action="store_true", help="also print every call on the way")
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT", help="default: this one")
    options = parser.parse_args()
    checkouts = [path.resolve() for path in options.checkouts or [Path(__file__).parents[2]]]
    found = [count(checkout) for checkout in checkouts]
    width = max(len(str(path)) for path in checkouts)
    print(" " * 22, *(f"{path!s:>{width}}" for path in checkouts))
    for name in found[0]["counts"]:
        print(f"{name:22}", *(f"{one['counts'][name]:>{width}}" for one in found))
    for path, one in zip(checkouts, found, strict=True):
        if options.way:
            print(f"\n{path}", *one["way"], sep="\n")


if __name__ == "__main__":
    main()

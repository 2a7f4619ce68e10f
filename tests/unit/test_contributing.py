"""The worked examples of CONTRIBUTING.md, run as they stand there: what they say is one file is one file."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fedssh.rules import policies
from fedssh.rules.averaging import round_result
from fedssh.rules.gate import Gate, decide
from fedssh.rules.policies import described, described_options, read_policy

SECTIONS = {"A policy", "Before a commit"}  # those that a test below runs
_BLOCK = re.compile(r"^`(?P<file>[^`\n]+)`\n\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(root: Path) -> dict[str, str]:
    """The text below each heading of the second order."""
    _, *parts = re.split(r"^## (.+)$", (root / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(root: Path, heading: str) -> dict[str, str]:
    """The fenced blocks below a heading, by the file that the line before each names."""
    text = sections(root)[heading]
    found = {block["file"]: block["code"] for block in _BLOCK.finditer(text)}
    assert len(found) == text.count("\n```") / 2, f"a block of {heading!r} names no file, or two name the same"
    return found


@pytest.fixture
def add(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType, str], None]]:
    """Puts a section's files where a package finds them beside its own; when the test is over they are gone."""
    added: list[tuple[ModuleType, str]] = []

    def put(package: ModuleType, heading: str) -> None:
        folder = Path(package.__path__[0])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        for file, code in blocks(root, heading).items():
            assert (root / file).parent.samefile(folder) and not (root / file).exists()
            (tmp_path / Path(file).name).write_text(code)
            added.append((package, Path(file).stem))
        importlib.invalidate_caches()

    yield put
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def test_every_section_is_run(root: Path) -> None:
    assert set(sections(root)) == SECTIONS


def test_a_policy(add: Callable[[ModuleType, str], None]) -> None:
    with pytest.raises(ValueError, match="no policy is called 'mean'"):
        read_policy("mean")
    add(policies, "A policy")

    mean = read_policy("mean:10,deadline=60")
    assert mean.text == "mean:few=10,fraction=1,minimum=0.5,deadline=60,sites=1"
    updates = [{"w": np.array([number], "f4")} for number in (1, 3, 1000)]
    result = round_result(mean, {"w": np.zeros(1, "f4")}, updates, [10, 500, 9], [])
    assert (result.weights["w"].tolist(), result.shares) == ([2.0], [0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="no update is of 10 images or more"):
        mean.shares_of([9, 0])

    half = read_policy("half-way")
    assert half.shares(staleness=3) == (1.0, 0.5) and half.mixes and not half.rounds
    scores = [(share, {"accuracy": accuracy, "loss": 0.1}) for share, accuracy in ((1.0, 0.8), (0.5, 0.9))]
    decision = decide(half, Gate(), "accuracy", {"accuracy": 0.85, "loss": 0.1}, 0.85, scores)
    assert (decision.accept, decision.share) == (True, 0.5)

    rows = {row["policy"]: row for row in described()}
    assert rows["mean"]["does"] == "rounds: plain mean of the updates, without very small ones"
    assert rows["half-way"]["options"] == []
    few = {"option": "few", "default": 1, "means": "sites with fewer images do not count"}
    assert few in described_options()


def test_before_a_commit_the_same_is_asked_as_by_scripts_lint(root: Path) -> None:
    hooks = re.findall(r"^ +entry: \.venv/bin/(.+)$", (root / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    asked = (root / "scripts" / "lint").read_text().partition("\nPATH=")[2].splitlines()[1:]
    assert hooks == asked and len(hooks) > 3


GOOD = {"keys/README": b"Your own keys go here.\n", "-at most.bin": bytes(500_000)}
BAD = {
    "keys/auditor": (b"a key of any form\n", "keys"),
    "tests/key": (b"x\n-----BEGIN OPENSSH " + b"PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n", "private-key"),
    "-too large.bin": (bytes(500_001), "size"),
}


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_before_a_commit_keys_and_large_files_are_refused(root: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"PRE_COMMIT_HOME": str(tmp_path / "cache"), "PRE_COMMIT_COLOR": "never"}

    def refused(files: dict[str, bytes]) -> dict[str, str]:
        """By hook, what it says, once these files are there as well."""
        for file, content in files.items():
            (checkout / file).parent.mkdir(parents=True, exist_ok=True)
            (checkout / file).write_bytes(content)
        subprocess.run(["git", "add", "--all"], cwd=checkout, env=environ, check=True)
        command = [sys.executable, "-m", "pre_commit", "run", "--all-files"]
        ran = subprocess.run(command, cwd=checkout, env=environ, stdout=subprocess.PIPE, text=True, check=False)
        found = dict(re.findall(r"^- hook id: (\S+)$(.*?)(?=\.{9}|\Z)", ran.stdout, re.MULTILINE | re.DOTALL))
        assert ran.returncode == bool(found), ran.stdout
        return found

    subprocess.run(["git", "init", "--quiet", checkout], env=environ, check=True)
    shutil.copy(root / ".pre-commit-config.yaml", checkout)
    assert refused(GOOD) == {}
    found = refused({file: content for file, (content, _) in BAD.items()})
    assert set(found) == {hook for _, hook in BAD.values()}
    for file, (_, hook) in BAD.items():
        assert file in found[hook] and not any(good in found[hook] for good in GOOD)


def test_nothing_of_an_example_stays() -> None:
    assert {"mean", "half-way"}.isdisjoint(row["policy"] for row in described())


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("DOES = 'x'\n", "must have DOES and OPTIONS"),
        ("DOES, OPTIONS = 'x', {}\n", "must have one of shares, shares_of and shares_by"),
        ("DOES, OPTIONS = 'x', {}\ndef shares_of(values, examples): ...\n", "must have their options"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
    ],
)
def test_a_file_that_is_no_policy_says_what_it_lacks(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        with pytest.raises((TypeError, ModuleNotFoundError), match=says):
            read_policy("broken")
    finally:
        sys.modules.pop("fedssh.rules.policies.broken", None)
        vars(policies).pop("broken", None)

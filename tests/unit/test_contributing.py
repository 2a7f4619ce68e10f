"""The worked examples of CONTRIBUTING.md, run as they stand there: what they say is one file is one file."""

from __future__ import annotations

import importlib
import json
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

from fedssh import models
from fedssh.history.verbs import VERBS
from fedssh.ledger import read_export
from fedssh.models import networks
from fedssh.models.data.published import SOURCES
from fedssh.rules import policies
from fedssh.rules.averaging import round_result
from fedssh.rules.events import EVENTS
from fedssh.rules.gate import Gate, decide
from fedssh.rules.policies import described, described_options, read_policy
from fedssh.verify import check_export
from tests.harness.archives import unpack

SECTIONS = {"A network", "A policy", "A data set", "An event", "A verb"}  # those that a test below runs
TOLD = {"Before a commit", "Tests"}
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
    assert set(sections(root)) == SECTIONS | TOLD


def test_what_it_names_is_there(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text()
    of_examples = {file for heading in SECTIONS for file in blocks(root, heading)}
    named = set(re.findall(r"`((?:agents|models|docs|scripts|tests)/[^ `]+|\w+\.(?:toml|md))", text))
    assert len(named) > 12
    assert [name for name in named - of_examples if not (root / name).exists()] == []
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (root / target).exists()


@pytest.fixture(scope="module")
def added_to(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which what shall be added to a file that is there stands at its end."""
    copy = tmp_path_factory.mktemp("contributing")
    for folder in ("agents", "models", "scripts"):
        shutil.copytree(root / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "fedssh").symlink_to("agents")
    for heading in ("A data set", "An event", "A verb"):
        for file, code in blocks(root, heading).items():
            with (copy / file).open("a") as there:
                there.write(f"\n\n{code}")
    unpack(root / "tests/vectors/histories/best-free.tar.gz", copy)
    return copy


def run(checkout: Path, code: str, **variables: str) -> str:
    """What a program prints that imports fedssh from a checkout and runs in it."""
    environ = {**os.environ, "PYTHONPATH": f"{checkout}:{checkout / 'scripts'}", **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_network(add: Callable[[ModuleType, str], None]) -> None:
    with pytest.raises(ValueError, match="no architecture is called 'linear'"):
        models.check_spec({"name": "linear", "input": [28, 28, 1], "classes": 2})
    add(networks, "A network")
    assert "linear" in models.architectures()
    spec = models.check_spec({"name": "linear", "input": [28, 28, 1], "classes": 2})
    assert spec == {"name": "linear", "input": [28, 28, 1], "classes": 2, "pool": 2}
    with pytest.raises(ValueError, match="linear pools 9 pixels of images of 8x8"):
        models.check_spec(spec | {"input": [8, 8, 1], "pool": 9})
    assert models.shapes(spec) == {"output/kernel": (14 * 14, 1), "output/bias": (1,)}


def test_a_data_set(added_to: Path) -> None:
    arrays = {f"{split}_images": np.zeros((20, 28, 28), "u1") for split in ("train", "val", "test")}
    arrays |= {f"{split}_labels": np.arange(20)[:, None] % 2 for split in ("train", "val", "test")}
    np.savez(added_to / "breastmnist.npz", allow_pickle=False, **arrays)
    code = """
from pathlib import Path
from fedssh.models.data import datasets
found = datasets.open_dataset("breastmnist", Path())
print("breastmnist" in datasets.NAMES, found.classes, found.class_names, found.note)
print({split: images.images.shape for split, images in found.splits.items()})
"""
    said, shapes = run(added_to, code).splitlines()
    assert said.startswith("True 2 ('malignant', 'normal or benign') using breastmnist.npz, whose checksum differs")
    assert shapes == str(dict.fromkeys(("train", "val", "test"), (20, 28, 28, 1)))


WRITE_ONE = """
from pathlib import Path
from fedssh.charity.folders import Folders
from fedssh.charity.vault import Vault
from fedssh.rules.events import Noted
vault = Vault(Folders(Path("coordinator")))
before = vault.refresh()
with vault.locked():
    record = vault.append(Noted(about=7, reason="alice-2 has a new scanner"))
print(record.said == Noted(about=7, reason="alice-2 has a new scanner"), record.sequence == before.sequence + 1)
after = vault.refresh()
print([name for name in vars(before) if getattr(before, name) != getattr(after, name)])
"""
LOOK_AT_IT = """
from pathlib import Path
from scripts import formats
from fedssh.charity.cli import charity
from fedssh.verify import check_export
checked = check_export(Path("coordinator/outbox/ledger.jsonl"), None)
print(checked["records"], sum(checked["unchecked"].values()))
print(formats.page().partition("#### The event `noted`")[2][:300])
charity(["history", "--last", "1"])
"""


def test_an_event(added_to: Path) -> None:
    before = check_export(added_to / "coordinator/outbox/ledger.jsonl", None)
    assert run(added_to, WRITE_ONE).splitlines() == ["True True", "['sequence', 'head']"]
    said = run(added_to, LOOK_AT_IT).splitlines()
    assert said[0] == f"{before['records'] + 1} {sum(before['unchecked'].values()) + 1}"
    assert "| `about` | whole number | The record that it is about. |" in said
    assert said[-1].split()[3] == "noted" and said[-1].endswith("alice-2 has a new scanner")

    ledger = (added_to / "coordinator/outbox/ledger.jsonl").read_bytes().splitlines(keepends=True)
    [older] = read_export(ledger[-1:])  # this process has no such class
    assert type(older.said).__name__ == "Unknown"
    assert older.said.fields() == {"about": 7, "reason": "alice-2 has a new scanner"}


ASK_THE_DOOR = """
import json
from pathlib import Path
from fedssh.door.admission import DoorSettings, forced_command, read_sites
settings = DoorSettings(state=Path("coordinator"))
print(json.dumps(forced_command(settings, read_sites(settings.sites)[-1])))
"""


def test_a_verb(added_to: Path) -> None:
    ledger = (added_to / "coordinator/outbox/ledger.jsonl").read_text().splitlines()
    events = [json.loads(json.loads(line)["record"])["event"] for line in ledger]
    counts = {event: events.count(event) for event in events}

    def ask(words: str) -> str:
        command = json.loads(run(added_to, ASK_THE_DOOR))
        environ = {**os.environ, "SSH_ORIGINAL_COMMAND": words}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert json.loads(ask("events --json")) == counts and list(json.loads(ask("events --json"))) == list(counts)
    assert ask("events").splitlines()[0].split() == ["genesis", "1"]
    assert "events                             how many records there are of each kind\n" in ask("help")
    assert json.loads(ask("help --json"))["events"] == "events [--json]"
    assert ask("event").endswith("nodes, status, report, verify, help, events\n")
    shown = run(added_to, "from fedssh.charity.cli import charity; charity(['events', '--json'])")
    assert json.loads(shown) == counts


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
    assert "linear" not in models.architectures()
    assert "noted" not in EVENTS and "events" not in VERBS and "breastmnist" not in SOURCES


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

"""What the pages tell people to do, done: a coordinator and a site, checks by hand, an installation, units, a tutorial.

Which command of which page is run by what stands in tests/unit/test_shown.py.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.demo.federation import free_port
from tests.harness.sites import Records, history

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def blocks(root: Path, page: str, kind: str) -> list[str]:
    """The code blocks of a kind on a page, in order."""
    text = (root / "docs" / page).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [code for its, code in found if its == kind]


def test_the_units_start_commands_that_there_are(root: Path) -> None:
    units = (root / "docs/how-to/operations.md").read_text()
    started = re.findall(r"^ExecStart=\S+/(\w+) (\w+) (.*)$", units, re.MULTILINE)
    assert [f"{agent} {verb}" for agent, verb, _ in started] == [
        "bob watch", "alice train", "charity serve", "charity door",
    ]  # fmt: skip
    for agent, verb, options in started:
        command = [str(Path(sys.executable).with_name(agent)), verb, "--help"]
        page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not [option for option in re.findall(r"--[a-z-]+", options) if f"  {option} " not in page]


@dataclass
class Told:
    """What happened when the commands were followed."""

    folder: Path
    root: Path

    def shell(self, script: str, **variables: str) -> str:
        environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def records(self) -> Records:
        return history(self.folder / "coordinator")


def make_images(path: Path, seed: int, count: int) -> None:
    """Images whose class shows: the left or the right half is brighter."""
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        labels = np.arange(count) % 2
        images = random.integers(0, 150, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 14 * label : 14 * label + 14] += 60
        arrays |= {f"{split}_images": images, f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez(path, allow_pickle=False, **arrays)


@pytest.fixture(scope="module")
def told(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """All of how-to/invite.md in one folder: the daemons in the background, the rest one after another."""
    folder = tmp_path_factory.mktemp("readme")
    told = Told(folder, root)
    make_images(folder / "xrays.npz", 1, 40)
    make_images(folder / "partition.npz", 2, 120)
    port = free_port()
    there = {
        "charity@charity.example:2222": f"{getpass.getuser()}@127.0.0.1:{port}",
        "0.0.0.0:2222": f"127.0.0.1:{port}",
    }
    if SSHD is None:
        there = {"charity@charity.example:2222": f"charity@127.0.0.1:{port}", "--door sshd": "--door embedded"} | there
    daemons = []
    lines = [line for block in blocks(root, "how-to/invite.md", "sh") for line in block.splitlines()]
    assert len(lines) == 8
    try:
        for line in lines:
            for written, here in there.items():
                line = line.replace(written, here)
            if "serve" in line or "watch" in line:
                daemons.append(start(line, folder))
            else:
                told.shell(line, CHARITY_EPOCHS="5")  # a hundred would teach this test nothing more
            if "keygen" in line:
                shutil.copy(folder / "site/site_key.pub", folder / "hospital-a.pub")  # sent to the coordinator
            if "serve" in line:
                wait_for_port(port, daemons[-1])
        yield told
    finally:
        for daemon in daemons:
            os.killpg(daemon.pid, signal.SIGTERM)
        for daemon in daemons:
            daemon.wait(timeout=20)


def start(line: str, folder: Path) -> subprocess.Popen[bytes]:
    program = str(Path(sys.executable).with_name(shlex.split(line)[0]))
    with open(folder / "daemons.log", "ab") as log:
        return subprocess.Popen([program, *shlex.split(line)[1:]], cwd=folder, stderr=log, start_new_session=True)


def wait_for_port(port: int, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and daemon.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the door did not open")


def test_a_real_coordinator_and_a_real_site(told: Told) -> None:
    events = [record["event"] for record in told.records()]
    assert events[0] == "genesis"
    assert "accepted" in events
    assert events.count("report") == 3
    assert "finished" in events
    assert told.shell("charity status --json")
    assert "hospital-a" in told.shell("charity nodes list")


def test_checking_by_hand(told: Told) -> None:
    missing = [tool for tool in ("age", "jq", "sha256sum", "ssh-keygen") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    accepted = [record for record in told.records() if record["event"] == "accepted"][-1]
    bundle, history = (
        block.replace("state/coordinator", "coordinator").replace("scripts/", f"{told.root}/scripts/")
        for block in blocks(told.root, "how-to/verify.md", "sh")
    )
    said = told.shell(bundle, RECORD=str(accepted["sequence"]), SITE=str(accepted["site"]))
    assert said.startswith('Good "submission@fedssh" signature for hospital-a')
    model = accepted.get("candidate", accepted["model"])  # what the site sent; with mixes the model is another
    assert isinstance(model, dict)
    assert told.shell("sha256sum model.safetensors").split()[0] == model["sha256"]
    assert "every hash, link and signature is good" in told.shell(history)


def test_going_back_and_exporting(told: Told) -> None:
    accepted = [record["sequence"] for record in told.records() if record["event"] == "accepted"][-1]
    before = told.records()[-1]["sequence"]
    told.shell("charity rollback 1")
    told.shell(f"charity export {accepted} best.keras")
    assert (told.folder / "best.keras").stat().st_size > 100_000
    after = [record for record in told.records() if record["sequence"] > before]
    assert [(record["event"], record["to"]) for record in after if record["event"] == "rollback"] == [("rollback", 1)]


def shown(root: Path, page: str) -> list[str]:
    """The commands of a page's console blocks."""
    lines = [line for block in blocks(root, page, "console") for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


def test_looking_at_what_happened(told: Told) -> None:
    wanted = [line for line in shown(told.root, "tutorial/look.md") if line.startswith(("charity ", "scripts/verify"))]
    assert len(wanted) == 9
    if shutil.which("jq") is None:
        wanted = [line for line in wanted if not line.startswith("scripts/verify")]
    for line in wanted:
        here = line.replace("state/coordinator", "coordinator").replace("scripts/", f"{told.root}/scripts/")
        assert told.shell(here) or ">" in here


def test_using_the_model_at_the_site(told: Told) -> None:
    lines = shown(told.root, "how-to/use-the-model.md")[:2] + shown(told.root, "tutorial/two-machines.md")[-3:]
    assert lines[:2] == lines[2:4] and lines[4].startswith("bob receipts")
    (told.folder / "photographs").mkdir()
    for number, pixels in enumerate(np.load(told.folder / "xrays.npz")["test_images"][:3]):
        Image.fromarray(pixels).save(told.folder / "photographs" / f"{number}.png")
    for line in lines[2:]:
        told.shell(line)
    assert len((told.folder / "predictions.csv").read_text().splitlines()) == 4
    assert (told.folder / "best.keras").exists()


def test_two_machines_take_the_eight_commands(root: Path) -> None:
    """Those of how-to/invite.md, which run here, with a folder as data and the other door."""

    def plain(line: str) -> str:
        return re.sub(r" --(data|door) \S+", "", line)

    eight = {plain(line) for block in blocks(root, "how-to/invite.md", "sh") for line in block.splitlines()}
    lines = [plain(line) for line in shown(root, "tutorial/two-machines.md")]
    assert len(eight) == 8 and set(lines[1:9]) == eight


def test_a_folder_of_ones_own(root: Path, tmp_path: Path) -> None:
    told = Told(tmp_path, root)
    (tmp_path / "data").mkdir()
    make_images(tmp_path / "data" / "pneumoniamnist.npz", 3, 40)
    (program,) = blocks(root, "tutorial/own-folder.md", "python")
    (tmp_path / "folders.py").write_text(program)
    activate, make, look, _ = shown(root, "tutorial/own-folder.md")
    assert activate == ". .venv/bin/activate"
    told.shell(make)
    assert "no errors" in told.shell(look)
    assert "no errors" in told.shell("alice check hospital")


def test_numbers_instead_of_classes(root: Path, tmp_path: Path) -> None:
    told = Told(tmp_path, root)
    program, other = blocks(root, "how-to/tasks.md", "python")
    told.shell(f"python - <<'END'\n{program}END")
    told.shell(f"python - <<'END'\n{other}END")
    assert "val: 169 of 359 images have above four" in told.shell("charity check traits.npz --holdout 0.2")
    said = told.shell("charity check angles.npz --holdout 0.2")
    (shown_check,) = [one for one in blocks(root, "how-to/tasks.md", "") if one.startswith("$ charity check")]
    assert said.splitlines()[:4] == shown_check.splitlines()[1:5]


def test_beginning_with_rounds(root: Path, tmp_path: Path) -> None:
    told = Told(tmp_path, root)
    make_images(tmp_path / "xrays.npz", 1, 40)
    (line,) = blocks(root, "how-to/policy.md", "sh")
    told.shell(line)
    policy = re.search(r"--policy (\S+)", line)
    assert policy is not None
    genesis = told.records()[0]
    for option in policy[1].partition(":")[2].split(","):
        assert option in str(genesis["policy"]).partition(":")[2].split(",")
    assert genesis["sessions"] == 20
    assert "fedavg" in told.shell("charity policies")


def test_a_program_reads_a_history(root: Path, tmp_path: Path) -> None:
    (program,) = blocks(root, "how-to/verify.md", "python")
    for name in ("ledger.jsonl", "coordinator_key.pub"):
        shutil.copy(root / "tests/vectors" / name, tmp_path)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    count = len((tmp_path / "ledger.jsonl").read_text().splitlines())
    assert count and done.stdout == f"{count} records\n", done.stderr


def test_the_installation_of_bob_has_no_tensorflow(root: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "state", "build", "results", "__pycache__", ".*_cache", ".hypothesis", "data"
    )
    shutil.copytree(root, checkout, ignore=ignored)
    lines = blocks(root, "how-to/install.md", "console")
    script = "\n".join(line[2:] for block in lines for line in block.splitlines()).replace("python3", sys.executable)
    done = subprocess.run(
        ["sh", "-euc", f"{script}\nbob --version\npip list"], cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode and "Failed to establish a new connection" in done.stdout + done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert "bob, version" in done.stdout and "paramiko" in done.stdout
    assert "tensorflow" not in done.stdout and "keras" not in done.stdout

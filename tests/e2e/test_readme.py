"""The README does what it says: its commands for a real coordinator and site, its checks by hand, its installation.

And the units of docs/how-to/operations.md start commands that there are.
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

from scripts.demo.federation import free_port
from tests.harness.sites import Records, history

# Commands of the README that other tests run, word for word or with a state folder of their own: those of its console
# blocks, and those for `charity` within its text. The sh blocks are run here, one section after another.
ELSEWHERE = {
    "scripts/quickstart": "tests/e2e/test_processes.py",
    "scripts/test": "what runs this test",
    "scripts/deploy plan fleet.toml": "tests/integration/test_fleet.py",
    "scripts/deploy up fleet.toml": "tests/integration/test_fleet.py",
    "scripts/deploy down fleet.toml": "tests/integration/test_fleet.py",
    "docker compose up --build --detach": "tests/e2e/test_compose.py",
    "docker compose cp setup:/keys/. keys/": "tests/e2e/test_compose.py",
    "ssh -p 2222 -i keys/auditor -o UserKnownHostsFile=keys/known_hosts charity@localhost history": "test_compose.py",
    "ssh -p PORT -i state/keys/auditor -o UserKnownHostsFile=state/keys/known_hosts charity@127.0.0.1 history": "same",
}
IN_THE_TEXT = {
    "charity rollback 17": "test_going_back_and_exporting",
    "charity export 46 best.keras": "test_going_back_and_exporting",
    "charity nodes revoke hospital-a": "tests/integration/test_judge.py",
    "charity nodes add NAME KEY.pub --role auditor": "tests/e2e/test_processes.py",
    "charity predict": "tests/integration/test_in_use.py",
    "charity check DATA": "tests/integration/test_own_data.py",
    "charity init --holdout 0.2": "tests/integration/test_own_data.py",
    "charity history": "test_checking_by_hand",
    "charity policies": "test_beginning_with_rounds",
    "charity init": "test_a_real_coordinator_and_a_real_site",
    "charity init --policy POLICY": "test_beginning_with_rounds",
    "charity init --weights FILE": "tests/integration/test_genesis.py",
    # a smaller one
    """charity init --architecture '{"name":"cnn","depth":8,"input":[64,64,3],"classes":4}'""": "test_genesis.py",
}
RUN_HERE = {
    "On real machines": "test_a_real_coordinator_and_a_real_site",
    "Checking by hand": "test_checking_by_hand",
    "How models become one": "test_beginning_with_rounds",
}
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def sections(root: Path) -> dict[str, str]:
    """The README's text by heading."""
    parts = re.split(r"^## (.+)$", (root / "README.md").read_text(), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def blocks(text: str, kind: str) -> list[str]:
    """The code blocks of a kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_every_command_of_the_readme_is_run_by_a_test(root: Path) -> None:
    shown = {
        line[2:] for text in sections(root).values() for block in blocks(text, "console") for line in block.splitlines()
    }
    installing = {line for line in shown if "pip install" in line or "-m venv" in line}
    assert len(installing) == 3  # see test_the_installation_of_bob_has_no_tensorflow
    assert shown - installing == set(ELSEWHERE)
    assert {name for name, text in sections(root).items() if blocks(text, "sh")} == set(RUN_HERE)
    within = re.sub(r"^```.*?^```$", "", (root / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(charity [^`]+)`", within)) == set(IN_THE_TEXT)


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
    """Everything under "On real machines" in one folder: the daemons in the background, the rest one after another."""
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
    lines = [line for block in blocks(sections(root)["On real machines"], "sh") for line in block.splitlines()]
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
        for block in blocks(sections(told.root)["Checking by hand"], "sh")
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


def test_beginning_with_rounds(root: Path, tmp_path: Path) -> None:
    told = Told(tmp_path, root)
    make_images(tmp_path / "xrays.npz", 1, 40)
    (line,) = blocks(sections(root)["How models become one"], "sh")
    told.shell(line)
    policy = re.search(r"--policy (\S+)", line)
    assert policy is not None
    genesis = told.records()[0]
    for option in policy[1].partition(":")[2].split(","):
        assert option in str(genesis["policy"]).partition(":")[2].split(",")
    assert genesis["sessions"] == 20
    assert "fedavg" in told.shell("charity policies")


def test_a_program_reads_a_history(root: Path, tmp_path: Path) -> None:
    (program,) = blocks(sections(root)["How it works"], "python")
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
    lines = [block for block in blocks(sections(root)["On real machines"], "console") if "pip install" in block]
    script = "\n".join(line[2:] for block in lines for line in block.splitlines()).replace("python3", sys.executable)
    done = subprocess.run(
        ["sh", "-euc", f"{script}\nbob --version\npip list"], cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode and "Failed to establish a new connection" in done.stdout + done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert "bob, version" in done.stdout and "paramiko" in done.stdout
    assert "tensorflow" not in done.stdout and "keras" not in done.stdout

"""The story as plain processes: a fresh state, accepted records, a look by hand with stock ssh, and a second run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedssh.history.report import page
from tests.harness.sites import history, processes_of

SMALL = ("--sites=2", "--dataset=digits", "--sessions=1", "--epochs=3", "--seed=3")


def start(root: Path, state: Path, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """Run the quickstart in a process group of its own, as a terminal would, for a user who hides nothing."""
    command = [str(root / "scripts/quickstart"), f"--state={state}", *SMALL, *words]
    environ = {**os.environ, "FEDSSH_PYTHON": sys.executable}
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environ, start_new_session=True, umask=0o022)


def until(log: Path, text: str, process: subprocess.Popen[bytes], seconds: float) -> str:
    """What the run wrote, once `text` is in it."""
    end = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, f"no {text!r} in:\n{log.read_text()}"
        time.sleep(0.2)
    return log.read_text()


def open_to_others(state: Path) -> list[Path]:
    """What is in a state folder, or would be if its own folder were open, that other users can reach."""
    return [path for path in state.iterdir() if path.stat().st_mode & 0o077]


def foreign(state: Path) -> list[str]:
    """Lines in the agents' logs that are no JSON objects; the setup is no agent."""
    logs = [log for log in (state / "logs").glob("*.log") if not log.name.endswith("-setup.log")]
    assert len(logs) == 6
    return [line for log in logs for line in log.read_text().splitlines() if not line.startswith("{")]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "state"


def test_first_run_ends_with_a_verified_history(root: Path, state: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(root, state, log, "--dataset=nope")
    assert process.wait(timeout=60) == 1, log.read_text()
    assert "setup: error: nope is neither a file nor a folder nor one of" in log.read_text()
    log.unlink()
    process = start(root, state, log)  # the misspelt name is forgotten
    assert process.wait(timeout=300) == 0, log.read_text()
    said = log.read_text()
    assert not {"absl", "oneDNN", "cuda"} & set(re.findall(r"\w+", said)), said
    assert not foreign(state)
    assert state.stat().st_mode & 0o777 == 0o700
    assert not open_to_others(state)
    events = [record["event"] for record in history(state / "coordinator")]
    assert events[0] == "genesis"
    assert "accepted" in events
    assert "alice-1" in said and "alice-2" in said
    assert "accepted" in said
    assert "best model" in said
    assert "test split" in said
    assert not processes_of(state)
    charity = [str(Path(sys.executable).with_name("charity")), "verify", f"--state={state / 'coordinator'}"]
    assert subprocess.run(charity, check=False).returncode == 0
    assert "\033" not in said and "\r" not in said  # no bar where nobody looks


def test_the_end_of_a_run_says_what_was_learned_and_how_it_is_used(root: Path, state: Path, tmp_path: Path) -> None:
    if not (state / "summary.json").exists():
        pytest.skip("the first run did not happen")
    value = json.loads((state / "summary.json").read_text())
    assert value["data"]["name"] == "digits"
    assert sum(map(sum, value["test"]["confusion"])) == value["data"]["test"]
    assert {row["site"] for row in value["sites"]} == {"alice-1", "alice-2"}
    assert (state / "accuracy.svg").read_text().startswith("<svg")
    with (state / "coordinator" / "outbox" / "ledger.jsonl").open("rb") as ledger:
        assert (state / "report.html").read_bytes() == b"".join(page(ledger))
    log = tmp_path / "log"
    environ = {**os.environ, "FEDSSH_PYTHON": sys.executable}
    again = [sys.executable, "-P", "-c", TOLD.format(state=state)]
    said = subprocess.run(again, capture_output=True, text=True, cwd=root, env={**environ, "PYTHONPATH": str(root)},
                          check=True).stdout  # fmt: skip
    assert all(f"\n== {head}" in said for head in HEADS), said
    assert max(map(len, said.partition("== use the model")[0].splitlines())) <= 120
    lines = [line.strip() for line in said.partition("== use the model")[2].splitlines() if line.startswith("  ")]
    assert len(lines) == 3
    for line in lines:
        with log.open("w") as out:
            assert subprocess.run(line, shell=True, cwd=root, stdout=out, stderr=out, check=False).returncode == 0, line
    assert len((state / "predictions.csv").read_text().splitlines()) == 1 + value["data"]["test"]
    assert (state / "best.keras").exists()


# The end of a run once more, of a folder that has one.
TOLD = """
from pathlib import Path
from scripts import environment
from scripts.demo import quickstart
from scripts.demo.federation import Federation
with Federation(Path("{state}"), 1, environment.BIN) as federation:
    quickstart.tell_learned(federation)
"""
HEADS = ("what was learned", "on the test split", "accuracy on the holdout over time", "what each site contributed")


def test_second_run_continues_and_stock_ssh_reads_the_history(root: Path, state: Path, tmp_path: Path) -> None:
    if not state.exists():
        pytest.skip("the first run did not happen")
    before = history(state / "coordinator")
    for path in (state, state / "sites", state / "logs"):
        path.chmod(0o755)  # as earlier versions left them
    (state / "holdout.npz").chmod(0o644)
    log = tmp_path / "log"
    process = start(root, state, log, "--keep-running")
    try:
        until(log, "the door stays open", process, 300)
        assert not open_to_others(state)
        if shutil.which("ssh"):
            seen = by_ssh(state, "history", "--json")
            assert seen.returncode == 0, seen.stderr
            assert json.loads(seen.stdout)
            assert by_ssh(state, "ls").returncode == 2
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 0, log.read_text()
    after = history(state / "coordinator")
    assert after[: len(before)] == before
    assert [record["event"] for record in after].count("genesis") == 1
    assert sum(record["event"] == "report" for record in after) > sum(record["event"] == "report" for record in before)
    assert not processes_of(state)


def by_ssh(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    port = json.loads((state / "quickstart.json").read_text())["port"]
    options = [f"-oUserKnownHostsFile={state / 'keys/known_hosts'}", "-oBatchMode=yes", "-oIdentitiesOnly=yes"]
    command = [
        "ssh",
        "-F/dev/null",
        "-p",
        str(port),
        "-i",
        str(state / "keys/auditor"),
        *options,
        "charity@127.0.0.1",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def test_ctrl_c_stops_everything_and_leaves_rounds_that_continue(root: Path, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    fedavg = "--policy=fedavg"  # so `--sessions=1` is one round more in every run
    process = start(root, state, log, fedavg)
    until(log, "session 1", process, 120)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=15) == 130, log.read_text()
    assert not processes_of(state)
    for rounds in (1, 2):
        log = tmp_path / f"log-{rounds}"
        process = start(root, state, log, fedavg)
        assert process.wait(timeout=300) == 0, log.read_text()
        records = history(state / "coordinator")
        closed = [record for record in records if record["event"] in ("round-accepted", "round-refused")]
        assert [record["round"] for record in closed] == list(range(1, rounds + 1))
        assert [part["site"] for part in closed[-1]["updates"]] == ["alice-1", "alice-2"]
        assert closed[-1]["event"].replace("round-", f"round {rounds} ") in log.read_text()  # as in `round 1 accepted`
    assert [record["event"] for record in records].count("genesis") == 1


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("--partition=dirichlet:0.5", "was made with --partition iid, not dirichlet:0.5"),
        ("--policy=polyak:0.25", "not polyak:keep=0.25"),
        ("--gate=ladder", "was made with --gate on, not ladder"),
    ],
)
def test_something_else_in_the_same_state_is_refused(
    root: Path, state: Path, tmp_path: Path, word: str, reason: str
) -> None:
    if not state.exists():
        pytest.skip("the first run did not happen")
    log = tmp_path / "log"
    process = start(root, state, log, word)
    assert process.wait(timeout=60) == 1
    assert reason in log.read_text()


def test_a_policy_that_cannot_work_is_refused_before_anything_is_made(root: Path, tmp_path: Path) -> None:
    state, log = tmp_path / "state", tmp_path / "log"
    process = start(root, state, log, "--policy=krum")
    assert process.wait(timeout=60) == 2
    assert "error: the policy krum needs 5 sites, there are 2" in log.read_text()
    assert not state.exists()


def test_a_failing_agent_ends_the_run_with_its_last_lines(root: Path, state: Path, tmp_path: Path) -> None:
    if not state.exists():
        pytest.skip("the first run did not happen")
    copy = tmp_path / "state"
    shutil.copytree(state, copy)
    (copy / "sites/alice-2/data/site.npz").write_bytes(b"not a data set")
    log = tmp_path / "log"
    process = start(root, copy, log)
    assert process.wait(timeout=120) == 1, log.read_text()
    assert "alice at alice-2 ended with code" in log.read_text()
    assert not processes_of(copy)

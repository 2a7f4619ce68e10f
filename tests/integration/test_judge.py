"""The real judge, and `charity` as processes: genesis, serve, enrolling while it runs, score, export, memory."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import weights
from fedssh.bundle import open_bundle, pending, seal
from fedssh.charity.folders import Folders
from fedssh.charity.judge import process as judge
from fedssh.charity.judge.client import Judge, JudgeDownError, judge_command
from fedssh.errors import AgentError, JudgeError
from fedssh.keys import PrivateKey
from fedssh.manifest import Release, Submission, new_id, now
from fedssh.rules.events import Local
from fedssh.weights import read_weights, write_weights

SPEC = {"name": "cnn", "depth": 4, "input": [28, 28, 1], "classes": 2}


def test_an_answer_that_finds_no_room_on_the_disk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(request: dict[str, Any]) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    said: list[dict[str, Any]] = []
    monkeypatch.setattr("sys.stdin", io.StringIO("{}\n"))
    judge.serve(full, said.append)
    assert said == [{"error": "[Errno 28] No space left on device", "errno": 28}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class shows in a bright square; as many in the holdout as PneumoniaMNIST has."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, number in (("train", 1000), ("val", 524), ("test", 60)):
        labels = random.integers(0, 2, number)
        pixels = random.integers(0, 120, (number, 28, 28), dtype=np.uint8)
        pixels[labels == 1, 8:18, 8:18] += 100
        arrays |= {f"{split}_images": pixels, f"{split}_labels": labels[:, np.newaxis]}
    path = tmp_path_factory.mktemp("data") / "charity.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


# What some processors make TensorFlow's libraries do, on every processor: speak while they load.
LOUD = """
import importlib.abc, os, sys
class Loud(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            os.write(2, b"WARNING: a stand-in speaks\\n")
sys.meta_path.insert(0, Loud())
"""


@pytest.fixture(scope="module", autouse=True)
def loud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let every process of these tests load a TensorFlow that speaks on descriptor 2."""
    folder = tmp_path_factory.mktemp("loud")
    (folder / "sitecustomize.py").write_text(LOUD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


class Charity:
    """The command, as a person runs it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.folders = Folders(state)

    def run(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "fedssh.charity.cli", *words, f"--state={self.state}"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[2]
        )
        assert done.returncode == code, done.stderr
        assert not {"stand-in", "absl"} & set(re.findall("[a-z-]+", done.stderr)), done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))


@pytest.fixture(scope="module")
def charity(data: Path, tmp_path_factory: pytest.TempPathFactory, keys: dict[str, PrivateKey]) -> Charity:
    """A federation with one site, made by the commands of docs/how-to/invite.md."""
    charity = Charity(tmp_path_factory.mktemp("charity") / "coordinator")
    terms = ("--batch-size=32", "--learning-rate=0.002", "--address=charity@127.0.0.1:2222", "--name=test")
    said = charity.run("init", f"--data={data}", "--classes=0=plain,1=marked", *terms)
    assert said.startswith("the network takes 28x28 grey images in 2 classes: 0 is plain, 1 is marked\n")
    assert "\ngenesis of test: accuracy " in said
    invitation = json.loads(charity.run("nodes", "add", "alice-1", str(keys["alice-1"].path) + ".pub"))
    assert invitation["site_key"] == keys["alice-1"].public.fingerprint
    return charity


@pytest.fixture(scope="module")
def served(charity: Charity) -> Iterator[subprocess.Popen[str]]:
    """`charity serve` at work; its events come on standard error."""
    environ = {**os.environ, "CHARITY_LOG_FORMAT": "json", "CHARITY_DEBUG": "1"}
    command = [sys.executable, "-m", "fedssh.charity.cli", "serve", f"--state={charity.state}"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environ, cwd=Path(__file__).resolve().parents[2]
    )
    try:
        assert event(process, "native") | {"time": ""} == {
            "time": "", "agent": "charity", "event": "native", "text": "WARNING: a stand-in speaks"
        }  # fmt: skip
        start = event(process, "start")
        assert start["sequence"] == 3 and start["text"].startswith("serving test from record 3; ")
        yield process
    finally:
        process.terminate()
        with process:  # closes the pipe
            assert process.wait(timeout=20) == 0


def event(process: subprocess.Popen[str], name: str, seconds: float = 60) -> dict[str, Any]:
    """The next event of that name."""
    assert process.stderr
    end = threading.Timer(seconds, process.kill)  # a reader of a pipe has no time-out of its own
    end.start()
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            found: dict[str, Any] = json.loads(line)
            if found["event"] == name:
                return found
    finally:
        end.cancel()
    raise AssertionError(f"it ended without the event {name}, after {''.join(said)}")


def submit(charity: Charity, key: PrivateKey, model: Path) -> tuple[str, float]:
    """Put a submission into alice-1's inbox as the door does; returns its id and when."""
    builds_on = charity.json("status")["release"]
    submission = Submission(
        id=new_id(), sender="alice-1", recipients=[], model=pending(), sealed=pending(),
        architecture=weights.architecture_hash(SPEC), builds_on=builds_on, session=1, epoch=1, examples=9,
        metrics=Local(0.5, 0.5), started=now(), created=now(),
    )  # fmt: skip
    inbox = charity.folders.inbox / "alice-1"
    coordinator = charity.folders.key.with_name("coordinator_key.pub")
    from fedssh.keys import load_public

    seal(model, submission, key, [load_public(coordinator)], inbox / ".arriving.part")
    (inbox / ".arriving.part").rename(inbox / f"{time.time_ns():020}-{'0' * 8}.bundle")
    return submission.id, time.perf_counter()


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def trained(charity: Charity, path: Path) -> Path:
    """The genesis model with other weights in its last layer: a model that scores differently."""
    genesis = charity.folders.model(charity.json("show", "1")["model"]["sha256"])
    header = weights.read_header(genesis)
    tensors = read_weights(genesis, header.tensors)
    tensors["output/bias"] = tensors["output/bias"] - 50
    write_weights(path, tensors, header.spec)
    return path


def test_a_submission_gets_its_verdict_at_once(
    served: subprocess.Popen[str], charity: Charity, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    release = max(charity.folders.releases.glob("*.bundle"))
    model = tmp_path / "model.safetensors"
    open_bundle(release, model, Release, coordinator_of(charity), keys["alice-1"])
    latencies = []
    for number in range(4):
        path = model if number % 2 else trained(charity, tmp_path / "trained.safetensors")
        submission, start = submit(charity, keys["alice-1"], path)
        while not charity.folders.verdict("alice-1", submission).exists():
            time.sleep(0.002)
            assert time.perf_counter() - start < 20
        latencies.append(time.perf_counter() - start)
        said = event(served, "refused")
        assert said["submission"] == submission
        assert said["metrics"]["accuracy"] <= 1
        assert {"open_ms", "judge_ms", "commit_ms"} <= said.keys()
        print({name: said[name] for name in ("open_ms", "judge_ms", "commit_ms")}, f"{latencies[-1] * 1000:.0f} ms")
    assert min(latencies) < 1


def coordinator_of(charity: Charity) -> Any:
    from fedssh.keys import load_public

    return load_public(charity.folders.key.with_name("coordinator_key.pub"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_stays_within_the_budget(served: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()
    vault, judges = resident_mb(served.pid), [resident_mb(int(pid)) for pid in children]
    print(f"vault {vault:.0f} MB, judge {judges} MB")
    assert vault <= 96
    assert len(judges) == 1 and judges[0] <= 800


def test_enrolling_while_it_serves_takes_effect_at_once(
    served: subprocess.Popen[str], charity: Charity, keys: dict[str, PrivateKey]
) -> None:
    charity.run("nodes", "add", "alice-2", str(keys["alice-2"].path) + ".pub")
    assert event(served, "release")["sites"] == ["alice-1", "alice-2"]
    charity.run("nodes", "revoke", "alice-2", "--reason=test")
    assert event(served, "release")["sites"] == ["alice-1"]
    rows = {row["site"]: row["state"] for row in charity.json("nodes", "list")}
    assert rows == {"alice-1": "enrolled", "alice-2": "revoked"}


def test_a_second_coordinator_on_the_same_folder_is_refused(served: subprocess.Popen[str], charity: Charity) -> None:
    assert "error: another `charity serve` works on" in charity.run("serve", code=2)


def test_many_commands_and_the_coordinator_write_one_history(
    served: subprocess.Popen[str], charity: Charity, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    model = trained(charity, tmp_path / "trained.safetensors")
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "fedssh.charity.cli", "nodes"]
    state = f"--state={charity.state}"
    running = []
    for name in ("alice-2", "stranger"):
        words = ["add", name, f"{keys[name].path}.pub", state]
        running.append(subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL, cwd=root))
    submission, _ = submit(charity, keys["alice-1"], model)
    assert [process.wait(timeout=30) for process in running] == [0, 0]
    while event(served, "refused")["submission"] != submission:
        pass
    charity.run("finish", "--reason=enough")
    assert event(served, "finished")
    verified = charity.json("verify")
    assert verified["records"] == charity.json("status")["records"]
    assert charity.json("status")["state"] == "finished"
    lines = charity.run("history", "--export").splitlines()
    assert lines == (charity.folders.outbox / "ledger.jsonl").read_text().splitlines()


def test_score_on_the_test_split_and_diff_and_best(charity: Charity) -> None:
    value = charity.json("score", "--split=test")
    assert (value["examples"], value["split"]) == (60, "test")
    assert 0 <= value["metrics"]["accuracy"] <= 1
    assert charity.json("best")["sequence"] == 1
    change = charity.json("diff", "1", "3")
    assert {row["tensor"] for row in change["tensors"]} >= {"conv1/kernel", "output/bias"}
    assert all(row["distance"] == 0 for row in change["tensors"])
    assert "MOVED BY (L2)" in charity.run("diff", "1", "3")
    assert "the history has no record 99" in charity.run("show", "99", code=3)


def test_an_export_takes_raw_pixels_and_loads_without_a_warning(charity: Charity, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.keras"
    said = charity.run("export", "best", str(out))
    assert "takes pixels 0..255, [n, 28, 28, 1]; gives one number an image: the probability of class 1, marked" in said
    code = (
        "import keras, numpy, sys; a = numpy.load(sys.argv[2]); m = keras.models.load_model(sys.argv[1]);"
        "p = m.predict(a['test_images'][..., None], verbose=0)[:, 0];"
        "e = m.evaluate(a['test_images'][..., None], a['test_labels'], verbose=0);"
        "print(float(((p > 0.5) == a['test_labels'][:, 0]).mean()), e[1], float(m.optimizer.learning_rate))"
    )
    environ = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(out), str(data)],
        capture_output=True, text=True, env=environ, check=True,
    )  # fmt: skip
    native = ("absl", "oneDNN", "a stand-in speaks")  # of the libraries, see the fixture
    others = [line for line in done.stderr.splitlines() if not any(word in line for word in native)]
    assert not others, "not a word from Keras about an optimizer whose state does not fit"
    accuracy, evaluated, learning_rate = map(float, done.stdout.split())
    assert accuracy == pytest.approx(charity.json("score")["metrics"]["accuracy"])
    assert evaluated == pytest.approx(accuracy)
    assert learning_rate == pytest.approx(0.002)  # as the sites train it
    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("class_names.json"))["class_names"] == ["plain", "marked"]
    assert charity.json("show", "1")["class_names"] == ["plain", "marked"]
    assert [path.name for path in tmp_path.iterdir()] == ["best.keras"]


def test_the_same_seed_begins_with_the_same_model(data: Path, tmp_path: Path) -> None:
    plan = {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32}
    answers = []
    for number in (1, 2):
        judge = Judge(judge_command(data, SPEC))
        try:
            answers.append(
                judge.ask({"genesis": {"out": str(tmp_path / f"{number}.safetensors"), "seed": 7, "plan": plan}})
            )
        finally:
            judge.stop()
    assert answers[0] == answers[1]
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_the_judge_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("argparse", "fedssh", "agents", "models", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(17)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/nowhere", ""]))
    with pytest.raises(AgentError, match=r"the judge cannot start: .*none\.npz"):
        Judge(judge_command(tmp_path / "none.npz", SPEC)).start()


@pytest.mark.parametrize(("kills", "comes"), [(1, True), (2, True), (3, False)])
def test_a_judge_that_is_killed_while_it_starts_is_started_again(kills: int, comes: bool, tmp_path: Path) -> None:
    starts, said = tmp_path / "starts", list[str]()
    script = f"echo >> {starts}; [ $(wc -l < {starts}) -gt {kills} ] || kill -9 $$; echo '{{}}'; exec sleep 60"
    judge = Judge(["sh", "-c", script], restarted=said.append)
    try:
        if comes:
            assert judge.start() == {}
        else:
            with pytest.raises(JudgeDownError, match="the judge died of SIGKILL"):
                judge.start()
    finally:
        judge.stop()
    assert said == ["the judge died of SIGKILL"] * min(kills, 2)


def test_the_judge_says_what_it_cannot_do(data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz", other=np.zeros(1))
    with pytest.raises(AgentError, match=r"the judge cannot start: .* has no val split"):
        Judge(judge_command(tmp_path / "empty.npz", SPEC)).start()
    judge = Judge(judge_command(data, SPEC))
    try:
        with pytest.raises(JudgeError, match="cannot do it"):
            judge.score(tmp_path / "nowhere.safetensors")
        write_weights(tmp_path / "other.safetensors", {"w": np.zeros(3, np.float32)}, SPEC)
        with pytest.raises(JudgeError, match="the tensor conv1/bias is missing"):
            judge.score(tmp_path / "other.safetensors")
        assert judge.pid is not None, "an answer with an error is no reason to start again"
        os.kill(judge.pid, signal.SIGSTOP)
        judge.answer_seconds = 0.3
        with pytest.raises(JudgeError, match=r"did not answer in 0.3 s"):
            judge.score(tmp_path / "other.safetensors")
    finally:
        judge.stop()

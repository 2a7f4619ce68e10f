"""A history in other people's trackers: they read back what `history --json` says, once, and nobody else hears."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fedssh.charity.cli import charity
from fedssh.charity.folders import Folders
from fedssh.errors import AgentError, SettingsError
from fedssh.files import locked
from fedssh.use import hub, to_mlflow, to_tensorboard, tracked, trackers
from tests.vectors.histories import kept

pytest.importorskip("tensorboard", reason="the extra trackers is not installed")
pytest.importorskip("mlflow", reason="the extra trackers is not installed")
pytest.importorskip("sqlalchemy", reason="the extra trackers is not installed")
pytestmark = [  # what MLflow says of SQLAlchemy, and Keras of NumPy
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

NAMED = "best-named"
Numbers = dict[tuple[str, str, int], float]  # by run, metric and step

# Runs `charity` where no connection can leave; whatever tries is written to a file.
GUARDED = """
import ipaddress, os, socket, sys
told = open(sys.argv.pop(1), "a", buffering=1)
known = socket.getaddrinfo
def outside(host):
    try:
        return not ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return str(host) not in ("localhost", "None", "")
def look_up(host, *rest, **more):
    if outside(host):
        told.write(f"looked up {host}\\n")
        raise OSError("no network here")
    return known(host, *rest, **more)
class Guarded(socket.socket):
    def _check(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and outside(address[0]):
            told.write(f"to {address}\\n")
            raise OSError("no network here")
    def connect(self, address): self._check(address); return super().connect(address)
    def connect_ex(self, address): self._check(address); return super().connect_ex(address)
    def sendto(self, data, *rest): self._check(rest[-1]); return super().sendto(data, *rest)
socket.getaddrinfo, socket.socket = look_up, Guarded
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return kept.unpack(NAMED, tmp_path)


def asked(state: Path, *words: object) -> Result:
    return CliRunner().invoke(charity, [*map(str, words), "--state", str(state)])


def done(state: Path, *words: object) -> str:
    result = asked(state, *words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def expected(state: Path) -> Numbers:
    """What `history --json` says, and of the holdout and the test split all that `show --json` does."""
    found: Numbers = {}

    def put(run: str, what: str, metrics: Any, step: int) -> None:
        for name, value in (metrics or {}).items():
            if isinstance(value, int | float):
                found[run, f"{what}/{name}", step] = value

    for row in json.loads(done(state, "history", "--json")):
        step, event, site = row["sequence"], row["event"], row["site"]
        record = json.loads(done(state, "show", step, "--json"))
        if event in ("genesis", "accepted", "round-accepted", "rollback"):
            put("coordinator", "holdout", record["metrics"], step)
            put("coordinator", "gain", row["gain"], step)
            assert row["score"].items() <= record["metrics"].items()
        if event == "round-refused":
            put("coordinator", "refused", record["metrics"], step)
        if event == "tested":
            put("coordinator", "test", record["metrics"], step)
        if event in ("accepted", "refused", "counted", "invalid"):
            put(site, "claim", row["claim"], step)
            put(site, "score", record.get("metrics"), step)
            put(site, "gain", row["gain"], step)
            if row["bytes"] is not None:
                found[site, "bytes", step] = row["bytes"]
        if event == "report":
            put(site, "session", row["claim"], step)
        for part in record.get("updates", ()):
            if part["share"] is not None:
                found[part["site"], "share", step] = part["share"]
    return found


def from_tensorboard(folder: Path) -> Iterator[tuple[tuple[str, str, int], float]]:
    """Each number that it holds, as often as it holds it."""
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        read = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
        read.Reload()
        for tag in read.Tags()["scalars"]:
            for event in read.Scalars(tag):
                yield (run.name, tag, event.step), event.value


def from_mlflow(uri: str) -> tuple[list[tuple[tuple[str, str, int], float]], dict[str, Any]]:
    """Each number that it holds, and the runs by name."""
    client = to_mlflow._client(uri)
    numbers, runs = [], {}
    [experiment] = [one for one in client.search_experiments() if one.name != "Default"]
    for run in client.search_runs([experiment.experiment_id]):
        name = run.data.tags["fedssh.run"]
        assert name not in runs and run.info.run_name == name
        runs[name] = run
        for metric in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, metric)
            numbers += [((name, metric, point.step), point.value) for point in history]
    return numbers, runs


def rounded(numbers: Numbers) -> Numbers:
    """As TensorBoard keeps them, with 32 bits."""
    return {key: float(np.float32(value)) for key, value in numbers.items()}


@pytest.mark.parametrize("name", [NAMED, "fedavg-off", "merge-free"])
def test_tensorboard_reads_back_what_the_history_says(name: str, tmp_path: Path) -> None:
    state, folder = kept.unpack(name, tmp_path), tmp_path / "runs"
    for again in (False, True):
        said = done(state, "export", "--to", f"tensorboard:{folder}")
        assert ("nothing new" in said) == again
        found = list(from_tensorboard(folder))
        assert len(found) == len(dict(found)) > 20, "nothing stands there twice"
        assert dict(found) == rounded(expected(state))
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert asked(state, "tag", "1", "more", "--by", "me").exit_code == 0
    assert done(state, "export", "--to", f"tensorboard:{folder}").endswith(
        f"coordinator up to record {len(kept.records(name)) + 1}\n"
    )
    assert list(from_tensorboard(folder)) == found and len(list((folder / "coordinator").iterdir())) == 2


@pytest.mark.parametrize("how", ["a link", "the current folder", "a mount point"])
def test_the_folder_may_be_a_disk_of_its_own(
    how: str, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written beside it, and nothing is moved into it."""
    folder, other = tmp_path / "runs", tmp_path / "disk"
    other.mkdir()
    if how == "a link":
        folder.symlink_to(other)
    else:
        folder.mkdir()
    whole = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).resolve().parent != Path(target).resolve().parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        whole(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.chdir(folder)
    done(state, "export", "--to", "tensorboard:." if how == "the current folder" else f"tensorboard:{folder}")
    assert dict(from_tensorboard(folder)) == rounded(expected(state))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coordinator", "disk", "runs"]
    left = [path.name for path in folder.resolve().rglob("*") if path.is_file()]
    assert len(left) == 3 and all(to_tensorboard._NAME.fullmatch(name) for name in left)


def test_a_full_disk_leaves_no_half_file(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path, path: Path) -> None:
        assert part.exists() and "tfevents" not in part.name  # or TensorBoard would read it
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(to_tensorboard, "adopt", full)
        assert asked(state, "export", "--to", f"tensorboard:{tmp_path / 'runs'}").exit_code != 0
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    done(state, "export", "--to", f"tensorboard:{tmp_path / 'runs'}")
    assert dict(from_tensorboard(tmp_path / "runs")) == rounded(expected(state))


def test_what_32_bits_cannot_hold_is_left_out_where_there_are_no_more(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site may claim whatever it likes."""
    whole = tracked.Told.points
    largest = float(np.finfo(np.float32).max)
    claims = {"claim/loss": 1e300, "claim/less": -1e39, "claim/most": largest, "claim/few": 1e-5}

    def more(told: tracked.Told, after: int) -> Iterator[tracked.Point]:
        yield from whole(told, after)
        for metric, value in claims.items():
            yield tracked.Point("alice-1", metric, value, 19, 1e9)

    monkeypatch.setattr(tracked.Told, "points", more)
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    for place in (f"tensorboard:{tmp_path / 'runs'}", f"mlflow:{uri}"):
        done(state, "export", "--to", place)
    kept, _ = from_mlflow(uri)
    said = {metric: value for (run, metric, step), value in kept if (run, step) == ("alice-1", 19)}
    assert claims.items() <= said.items()
    found = {key[1]: value for key, value in from_tensorboard(tmp_path / "runs") if key[0::2] == ("alice-1", 19)}
    assert found["claim/most"] == largest and "claim/few" in found
    assert "claim/less" not in found and found.get("claim/loss") != 1e300 and np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_two_exports_at_once_write_once(kind: str, state: Path, tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path / 'runs.db'}" if kind == "mlflow" else tmp_path / "runs"
    command = [sys.executable, "-m", "fedssh.charity.cli", "export", "--to", f"{kind}:{place}", f"--state={state}"]
    lock = Folders(state).exporting
    with locked(lock):
        lock.write_text("4711\n")
        second = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert second.stderr is not None
        assert second.stderr.readline() == "charity: waits for another export, of process 4711, to end\n"
        assert not (tmp_path / "runs").exists() and not (tmp_path / "runs.db").exists()
        third = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert third.stderr is not None
        assert "waits for another export" in third.stderr.readline()
    said = sorted(one.communicate(timeout=120)[0].partition(": ")[2] for one in (second, third))
    assert (second.returncode, third.returncode) == (0, 0)
    assert said[0].endswith("alice-3 up to record 21\n") and said[1] == "nothing new, record 21 was the last before\n"
    numbers = from_mlflow(str(place))[0] if kind == "mlflow" else list(from_tensorboard(Path(str(place))))
    assert len(numbers) == len(dict(numbers)) > 20


SECRET = "s3cret%21"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"http://me:{SECRET}@mlflow.example:5000/x", "http://…@mlflow.example:5000/x"),
        (f"https://me:{SECRET}/?#@mlflow.example", "https://…@mlflow.example"),
        (f"postgresql://db.example/runs?user=me&password={SECRET}", "postgresql://db.example/runs?…"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("http://mlflow.example", "http://mlflow.example"),
        ("runs", "runs"),
    ],
)
def test_a_password_is_not_printed(uri: str, shown: str) -> None:
    place = trackers.read_place(f"mlflow:{uri}")
    assert str(place) == f"mlflow:{shown}"
    password = f"{SECRET}/?#" if "#" in uri else SECRET
    said = [
        f"API request to {uri}/api failed",
        f"x {uri.partition('://')[2]} y",
        f"x {password}",
        f"x {unquote(password)}",
    ]
    for text in said:
        told = trackers.without_secrets(text, uri)
        if SECRET in uri:
            assert "s3cret" not in told
        else:
            assert told == text


@pytest.mark.parametrize("kind", ["", "mlflo:"])
def test_a_password_is_not_printed_where_the_kind_is_forgotten(kind: str) -> None:
    with pytest.raises(SettingsError) as caught:
        trackers.read_place(f"{kind}http://me:{SECRET}@mlflow.example")
    assert str(caught.value) == f"--to is '{kind}http://…@mlflow.example'"


@pytest.fixture
def refusing() -> int:
    """A port of this machine at which nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_server_that_does_not_answer_is_told_so_and_tried_later(state: Path, refusing: int) -> None:
    uri = f"http://me:s3cret@127.0.0.1:{refusing}"
    own = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
    command = [sys.executable, "-m", "fedssh.charity.cli", "export", "--to", f"mlflow:{uri}", f"--state={state}"]
    ran = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr == (
        f"charity: error: the MLflow server http://…@127.0.0.1:{refusing} does not answer\n"
        "charity: hint: MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT say how long it is tried\n"
    )


def test_what_a_server_says_is_told_without_a_password(state: Path) -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"me:s3cret may not")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = asked(state, "export", "--to", f"mlflow:http://me:s3cret@127.0.0.1:{server.server_port}")
        server.shutdown()
    assert result.exit_code == 1 and isinstance(result.exception, AgentError)
    assert "401" in str(result.exception) and "s3cret" not in str(result.exception)


def test_how_long_a_server_is_waited_for_is_the_readers_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    to_mlflow._client("http://127.0.0.1:1")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77" and os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"


def test_tensorboard_tells_what_was_agreed_and_what_models_are_called(state: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done(state, "export", "--to", f"tensorboard:{tmp_path / 'runs'}")
    read = EventAccumulator(str(tmp_path / "runs" / "coordinator"), size_guidance={"tensors": 0})
    read.Reload()
    texts = {
        tag: [event.tensor_proto.string_val[0].decode() for event in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }
    assert "| policy | best |" in texts["agreed/text_summary"][0]
    moves = [one.event for one in kept.records(NAMED) if one.event in ("tagged", "untagged")]
    assert len(texts["names/text_summary"]) == len(moves) == 7
    assert not any("<" in text.replace("\\<", "") for text in texts["names/text_summary"])


@pytest.mark.parametrize("name", [NAMED, "fedavg-off"])
def test_mlflow_reads_back_what_the_history_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, uri = kept.unpack(name, tmp_path), f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.chdir(tmp_path)
    for again in (False, True):
        said = done(state, "export", "--to", f"mlflow:{uri}")
        assert ("nothing new" in said) == again
        numbers, runs = from_mlflow(uri)
        assert len(numbers) == len(dict(numbers)) > 20, "nothing stands there twice"
        assert dict(numbers) == expected(state)
    sites = {record.fields["site"] for record in kept.records(name) if record.event == "site-added"}
    assert runs.keys() == {"coordinator", *sites}
    genesis = kept.records(name)[0].fields
    for run in runs.values():
        assert run.data.params["policy"] == genesis["policy"] and run.data.params["plan.batch_size"] == "16"
        assert run.data.tags["fedssh.sequence"] == str(len(kept.records(name)))
        assert run.data.tags["fedssh.head"] == kept.records(name)[-1].hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coordinator", "runs.db"]


def test_names_are_tags_that_go_when_they_are_taken_away(state: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    done(state, "export", "--to", f"mlflow:{uri}")
    _, runs = from_mlflow(uri)
    tags = {name: sorted(tag for tag in run.data.tags if tag.startswith("name.")) for name, run in runs.items()}
    both = ["name.champion", "name.v1.0_rc-1"]
    assert tags == {"coordinator": both, "alice-1": [], "alice-2": [], "alice-3": both}
    assert runs["coordinator"].data.tags["name.champion"].startswith("record 10, since 20")
    done(state, "untag", "champion", "--by", "me")
    done(state, "tag", "6", "v1.0_rc-1", "--by", "me")
    done(state, "export", "--to", f"mlflow:{uri}")
    numbers, runs = from_mlflow(uri)
    tags = {name: [tag for tag in run.data.tags if tag.startswith("name.")] for name, run in runs.items()}
    assert tags == {"coordinator": both[1:], "alice-1": both[1:], "alice-2": [], "alice-3": []}
    assert len(numbers) == len(dict(numbers))


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_who_was_cut_off_goes_on_and_nothing_stands_twice(
    kind: str, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"sqlite:///{tmp_path / 'runs.db'}" if kind == "mlflow" else tmp_path / "runs"
    whole, batch = tracked.Told.points, to_mlflow.BATCH
    for at in (3, 12, 20):

        def cut(told: tracked.Told, after: int, at: int = at) -> Iterator[tracked.Point]:
            for point in whole(told, after):
                if point.step > at:
                    raise KeyboardInterrupt
                yield point

        with monkeypatch.context() as patch:
            patch.setattr(tracked.Told, "points", cut)
            patch.setattr(to_mlflow, "BATCH", 4)
            assert asked(state, "export", "--to", f"{kind}:{place}").exit_code != 0 or at == 20
    assert batch == 1000
    done(state, "export", "--to", f"{kind}:{place}")
    if kind == "mlflow":
        numbers, _ = from_mlflow(str(place))
        assert dict(numbers) == expected(state)
    else:
        numbers = list(from_tensorboard(Path(str(place))))
        assert dict(numbers) == rounded(expected(state))
    assert len(numbers) == len(dict(numbers))


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_what_was_made_from_another_history_is_left_alone(kind: str, state: Path, tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path / 'runs.db'}" if kind == "mlflow" else tmp_path / "runs"
    before = tmp_path / "before"
    shutil.copytree(state, before)
    for where, name in ((state, "one"), (before, "other")):
        done(where, "tag", "1", name, "--by", "me")
    done(state, "export", "--to", f"{kind}:{place}")
    result = asked(before, "export", "--to", f"{kind}:{place}")
    assert result.exit_code == 1 and "another history" in str(result.exception)


def test_nobody_outside_hears_of_it(state: Path, tmp_path: Path) -> None:
    """And that the guard would have noticed: MLflow, left to itself, tells its maker of every run."""
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH", "LANG")}

    def heard(before: str, name: str) -> str:
        told = tmp_path / f"{name}.txt"
        told.touch()
        program = f"{GUARDED}{before}\nfrom fedssh.charity.cli import main; main()"
        for place in (f"mlflow:sqlite:///{tmp_path / f'{name}.db'}", f"tensorboard:{tmp_path / name}"):
            words = ["export", "--to", place, f"--state={state}"]
            command = [sys.executable, "-c", program, str(told), *words]
            ran = subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=120)
            assert ran.returncode == 0, ran.stderr
        return told.read_text()

    left_to_itself = "from fedssh.use import to_mlflow; to_mlflow.OFF = {}"
    assert heard("", "as-it-is") == ""
    assert "mlflow" in heard(left_to_itself, "left-to-itself")


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_extra_is_named(kind: str, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == kind]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, kind, None)
    result = asked(state, "export", "--to", f"{kind}:{tmp_path / 'x'}")
    assert f"--to {kind} needs the extra trackers" in str(result.exception)
    assert getattr(result.exception, "hint", "") == "pip install 'fedssh[trackers]'"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "wandb:x"], "--to is 'wandb:x'"),
        (["--to", "hub:"], "--to is 'hub:'"),
        (["best", "--to", "tensorboard:x"], "takes the whole history"),
        (["--to", "mlflow:sqlite:///x.db", "--test"], "takes the whole history"),
        (["best", "x.keras", "--to", "hub:y"], "there is no FILE"),
        (["best"], "FILE is missing"),
        ([], "N and FILE are missing"),
        (["--to", "mlflow:sqlite:////nowhere/at/all/x.db"], "its folder does not exist"),
        (["--to", "mlflow:nonsense://x"], "cannot be used"),
    ],
)
def test_what_does_not_go_together(words: list[str], said: str, state: Path) -> None:
    result = asked(state, "export", *words)
    assert result.exit_code == 1 and said in str(result.exception)


# A folder for a model hub


def test_the_page_brings_it_everywhere(state: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (root / "docs/how-to/trackers.md").read_text()
    block = page.partition("```sh\n")[2].partition("```")[0]
    monkeypatch.chdir(state.parent)
    for line in block.splitlines():
        program, *words = line.split()
        assert program == "charity" and done(state, *words)
    assert {"runs", "runs.db", "champion"} <= {path.name for path in state.parent.iterdir()}


def test_the_folder_for_a_hub_has_all_that_it_takes_to_check_it(state: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")

    folder = tmp_path / "champion"
    said = done(state, "export", "champion", "--to", f"hub:{folder}")
    assert "say a license in README.md" in said and "names every site that took part" in said
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "allowed_signers", "class_names.json", "config.json", "ledger.jsonl", "model.keras",
        "model.safetensors", "verify",
    ]  # fmt: skip
    record = kept.records(NAMED)[9]
    for program, words in (("./verify", ["--head", record.hash]), ("sha256sum", [])):
        files = ["ledger.jsonl", "allowed_signers"] if words else ["model.safetensors"]
        ran = subprocess.run([program, *words, *files], cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("21 records, every hash" if words else record.fields["model"]["sha256"])
    lines = [json.loads(json.loads(line)["record"]) for line in (folder / "ledger.jsonl").read_bytes().splitlines()]
    assert lines[9]["model"]["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (folder / "verify").stat().st_mode & 0o777 == 0o755

    text = (folder / "README.md").read_text()
    _, front, card = text.split("---\n", 2)
    value = yaml.safe_load(front)
    assert (value["library_name"], value["pipeline_tag"]) == ("keras", "image-classification")
    assert value["tags"] == ["keras", "federated-learning", "fedssh", "champion", "v1.0_rc-1"]
    assert "license" not in value and "# license:" in front
    holdout, test = value["model-index"][0]["results"]
    for result, split, metrics in ((holdout, "validation", lines[9]["metrics"]), (test, "test", lines[15]["metrics"])):
        assert result["dataset"]["split"] == split
        plain = {name: number for name, number in metrics.items() if isinstance(number, int | float)}
        assert {one["type"]: one["value"] for one in result["metrics"]} == plain
    assert card.lstrip().startswith("# golden, the model of record 10") and "./verify --head" in card
    names = json.loads((folder / "class_names.json").read_text())
    assert (names["record"], names["hash"], names["class_names"]) == (10, record.hash, ["left", "right"])
    assert json.loads((folder / "config.json").read_text())["architecture"] == lines[0]["spec"]

    program = (
        "import keras, numpy; from safetensors.numpy import load_file; m = keras.models.load_model('model.keras');"
        "own = load_file('model.safetensors'); kept = [numpy.asarray(w) for w in m.trainable_variables];"
        "assert len(kept) == len(own) == 4;"
        "assert sorted(a.sum() for a in kept) == sorted(a.sum() for a in own.values());"
        "print(m.predict(numpy.zeros((1, 6, 6, 1)), verbose=0).shape)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "(1, 1)\n"), ran.stderr


def test_the_folder_is_there_whole_or_not_at_all(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())
    for name in ("export_keras", "verify_script", "card", "escaped_lines"):
        with monkeypatch.context() as patch:
            patch.setattr(hub, name, lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
            assert asked(state, "export", "--to", f"hub:{tmp_path / 'hub'}").exit_code != 0
        assert sorted(tmp_path.iterdir()) == before
    model = next((state / "vault" / "models").iterdir())
    for path in model.parent.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = asked(state, "export", "champion", "--to", f"hub:{tmp_path / 'hub'}")
    assert "which is not the model of record 10" in str(result.exception) and sorted(tmp_path.iterdir()) == before
    (tmp_path / "hub").mkdir()
    assert "exists already" in str(asked(state, "export", "--to", f"hub:{tmp_path / 'hub'}").exception)


def test_whatever_a_federation_is_called_is_text_in_yaml() -> None:
    yaml = pytest.importorskip("yaml")

    for text in ('a: "b" \\ #c', "é\u202e\x07\x85\u2028", "- x\n---\n", "\U0001f9ea", "no", "1e3"):
        assert yaml.safe_load(f"name: {hub._quoted(text)}") == {"name": text}


@pytest.mark.parametrize("value", [1e-05, -1e-05, 1.5e-05, 1e16, 1e300, 5e-324, 0.1, 0.0, 3, 10**20])
def test_a_number_is_one_in_yaml(value: float) -> None:
    yaml = pytest.importorskip("yaml")

    assert yaml.safe_load(f"value: {hub._number(value)}") == {"value": value}


def test_a_folder_in_no_folder_is_told_so(state: Path, tmp_path: Path) -> None:
    result = asked(state, "export", "--to", f"hub:{tmp_path / 'nodir' / 'x'}")
    assert isinstance(result.exception, SettingsError) and "its folder does not exist" in str(result.exception)


def test_a_run_of_a_site_is_never_the_coordinators() -> None:
    assert tracked.run_of("coordinator") == "coordinator_site" and tracked.run_of("alice-1") == "alice-1"
    assert to_tensorboard._NAME.fullmatch("events.out.tfevents.0000000001-0000000021.f26fd7ed343a43c1.fedssh")

"""`charity serve --metrics FILE`: a real coordinator with her judge and her door, and what is read of her meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity import inbox
from fedssh.charity import monitor as monitors
from fedssh.charity.cli_read import totals_of
from fedssh.charity.monitor import Monitor
from fedssh.history import totals
from scripts.demo.federation import free_port
from tests.harness.prometheus import Samples, read, value
from tests.harness.room import Room
from tests.harness.waiting import until
from tests.vectors.histories import kept

RECORDS = len(kept.records("best-free"))
FEDERATION = kept.records("best-free")[0].fields["federation"]


class Serving:
    """A coordinator's process."""

    def __init__(self, state: Path, metrics: Path, log: Path) -> None:
        self.metrics, self.log, self.state = metrics, log, state
        self.port = free_port()
        command = [sys.executable, "-m", "fedssh.charity.cli", "serve", f"--state={state}", f"--data={kept.HOLDOUT}"]
        command += ["--door=embedded", f"--listen=127.0.0.1:{self.port}", f"--metrics={metrics}", "--rescan=0.2"]
        with open(log, "ab") as out:
            environ = {**os.environ, "CHARITY_LOG_FORMAT": "json"}
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environ, umask=0o077
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [one for one in found if one["event"] == name]

    def ready(self) -> int:
        """Wait until she works; returns her judge's process."""
        until(lambda: any("pid_judge" in one for one in self.events("start")), 60, self.log.read_text)
        return next(int(one["pid_judge"]) for one in self.events("start") if "pid_judge" in one)

    def once(self, name: str, wanted: float, seconds: float = 60, **labels: str) -> Samples:
        """The file, once it says so."""

        def so() -> bool:
            with contextlib.suppress(FileNotFoundError):
                return value(read(self.metrics), name, **labels) == wanted
            return False

        until(so, seconds, self.log.read_text)
        return read(self.metrics)

    def garbage(self, site: str, count: int = 1) -> None:
        for _ in range(count):
            part = self.state / "vault" / "part"
            part.write_bytes(os.urandom(16))
            (self.state / "inbox" / site).mkdir(exist_ok=True, parents=True)
            part.rename(self.state / "inbox" / site / f"{time.time_ns():020d}-{os.urandom(4).hex()}.bundle")


def has_ended(pid: int) -> bool:
    """Whether a process is only an exit code: its first thread may end before its others, and then nobody can ask."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    state = kept.unpack("best-free", tmp_path)
    begun: list[Serving] = []

    def begin(metrics: Path) -> Serving:
        begun.append(Serving(state, metrics, tmp_path / "log"))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.terminate()
        one.process.wait(30)


def test_a_coordinator_at_work_is_seen(start: Any, tmp_path: Path) -> None:
    begun = time.time()
    (tmp_path / "prom").mkdir()
    (tmp_path / "prom" / ".fedssh.prom.12345678.part").write_text("of one that was killed")
    serving = start(tmp_path / "prom" / "fedssh.prom")
    found = serving.once("serving", 1)
    judge = serving.ready()
    assert serving.metrics.stat().st_mode & 0o777 == 0o644
    assert value(found, "records_total") == RECORDS and value(found, "door_up") == 1
    assert (value(found, "start_timestamp_seconds") or 0) >= begun - 1
    before = value(found, "verdicts_total", site="alice-1", outcome="invalid")
    assert before is not None
    serving.garbage("alice-1", 3)
    found = serving.once("verdicts_total", before + 3, site="alice-1", outcome="invalid")
    assert (value(found, "site_last_heard_timestamp_seconds", site="alice-1") or 0) >= begun - 1
    assert value(serving.once("waiting_bundles", 0, site="alice-1"), "free_bytes", folder="inbox")
    first = value(read(serving.metrics), "written_timestamp_seconds") or 0
    until(lambda: (value(read(serving.metrics), "written_timestamp_seconds") or 0) > first + 1, 40)
    os.kill(judge, signal.SIGKILL)
    until(lambda: has_ended(judge), 20)
    serving.garbage("alice-2")
    serving.once("judge_restarts_total", 1)
    assert sorted(os.listdir(serving.metrics.parent)) == [".fedssh.prom.lock", "fedssh.prom"]
    serving.process.terminate()
    assert serving.process.wait(30) == 0
    found = read(serving.metrics)
    assert value(found, "serving") == 0 and value(found, "records_total") == RECORDS + 4


def test_a_door_that_ends_is_told_last(start: Any, tmp_path: Path) -> None:
    serving = start(tmp_path / "fedssh.prom")
    serving.ready()
    until(lambda: serving.events("listening"), 60, serving.log.read_text)
    serving.once("door_up", 1)
    children = Path(f"/proc/{serving.process.pid}/task/{serving.process.pid}/children").read_text().split()
    [door] = [int(pid) for pid in children if b"\0door\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(door, signal.SIGKILL)
    assert serving.process.wait(30) == 1
    found = read(serving.metrics)
    assert (value(found, "door_up"), value(found, "serving")) == (0, 0)


def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(start: Any, tmp_path: Path) -> None:
    serving = start(tmp_path / "not-there" / "fedssh.prom")
    serving.ready()
    serving.garbage("alice-1", 2)
    until(lambda: len(serving.events("invalid")) == 2, 30, serving.log.read_text)
    until(lambda: serving.events("metrics"), 30, serving.log.read_text)
    serving.garbage("alice-2")
    until(lambda: len(serving.events("invalid")) == 3, 30, serving.log.read_text)
    [said] = serving.events("metrics")
    assert said["text"].startswith(f"cannot write metrics to {serving.metrics}: ") and "No such file" in said["reason"]
    serving.metrics.parent.mkdir()
    serving.once("records_total", RECORDS + 3)
    until(lambda: len(serving.events("metrics")) == 2, 30)
    assert serving.events("metrics")[1]["text"] == f"metrics are written to {serving.metrics} again"


def test_node_exporter_reads_it(start: Any, tmp_path: Path) -> None:
    """The real one, where it is installed."""
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if program is None:
        pytest.skip("no node_exporter (on Debian and Ubuntu: apt install prometheus-node-exporter)")
    serving, port = start(tmp_path / "fedssh.prom"), free_port()
    serving.once("serving", 1)
    command = [
        program,
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(
        [*command, f"--collector.textfile.directory={tmp_path}"], stderr=subprocess.DEVNULL
    ) as exporter:
        try:
            told: list[str] = []

            def answers() -> bool:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page,
                ):
                    told[:] = page.read().decode().splitlines()
                return any(line.startswith("fedssh_records_total") for line in told)

            until(answers, 20)
            assert "node_textfile_scrape_error 0" in told
            assert f'fedssh_records_total{{federation="{FEDERATION}"}} {RECORDS}' in told
        finally:
            exporter.terminate()


# One room, a stand-in for the judge


def test_bytes_are_counted_from_the_start_and_bundles_while_they_wait(room: Room, tmp_path: Path) -> None:
    room.work()
    room.submit("alice-1", 0.6)
    room.work()
    monitor = Monitor(tmp_path / "m.prom", room.folders)
    monitor._update(serving=True)
    found = read(tmp_path / "m.prom")
    assert value(found, "received_bytes_total", site="alice-1") is None
    for site, accuracy in (("alice-1", 0.7), ("alice-1", 0.1), ("alice-2", 0.8)):
        room.submit(site, accuracy, builds_on=room.newest.sequence)
    monitor._update(serving=True)
    found = read(tmp_path / "m.prom")
    assert (value(found, "waiting_bundles", site="alice-1"), value(found, "waiting_bundles", site="alice-2")) == (2, 1)
    assert (value(found, "waiting_oldest_timestamp_seconds", site="alice-1") or 0) == pytest.approx(1e9, abs=1)
    room.work()
    monitor._update(serving=True)
    found = read(tmp_path / "m.prom")
    sizes = [
        record.fields["model"]["size"] for record in room.vault.ledger.judged() if record.fields["site"] == "alice-1"
    ]
    assert value(found, "received_bytes_total", site="alice-1") == sum(sizes[1:]) > 0
    assert value(found, "waiting_bundles", site="alice-1") == 0


def test_nothing_is_written_while_nothing_happens(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room.work()
    now = [100.0]
    monkeypatch.setattr("fedssh.charity.monitor.time.monotonic", lambda: now[0])
    monitor, path = Monitor(tmp_path / "m.prom", room.folders), tmp_path / "m.prom"
    monitor._update(serving=True)
    first = path.stat().st_ino
    for _ in range(5):
        now[0] += 1
        monitor.came_round()
        monitor._update(serving=True)
    assert path.stat().st_ino == first
    now[0] += monitors.EVERY_SECONDS
    monitor._update(serving=True)
    second = path.stat().st_ino
    assert second != first, "it would look as if nobody wrote"
    monitor.troubled()
    monitor._update(serving=True)
    assert path.stat().st_ino != second
    assert value(read(path), "troubles_total") == 1


def test_a_summary_that_is_damaged_is_not_used(room: Room, tmp_path: Path) -> None:
    room.folders.summary.write_bytes(b'{"format":1,"sequence":')
    Monitor(tmp_path / "m.prom", room.folders)._update(serving=True)
    assert value(read(tmp_path / "m.prom"), "records_total") == len(room.vault.ledger.records())


def test_a_damaged_history_does_not_end_the_writer(room: Room, tmp_path: Path) -> None:
    monitor = Monitor(tmp_path / "m.prom", room.folders)
    room.folders.ledger.rename(tmp_path / "away")
    monitor._update(serving=True)
    assert not (tmp_path / "m.prom").exists()
    (tmp_path / "away").rename(room.folders.ledger)
    monitor._update(serving=True)
    assert value(read(tmp_path / "m.prom"), "records_total") == len(room.vault.ledger.records())


def test_a_broken_in_door_makes_no_series_and_no_work(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = Monitor(tmp_path / "m.prom", room.folders)
    monitor._update(serving=True)
    before = set(read(tmp_path / "m.prom"))
    for number in range(2000):
        folder = room.folders.inbox / f"evil-{number}"
        folder.mkdir()
        (folder / f"{10**18 + number:020}-00000000.bundle").touch()
    for name in ("alice-1", "alice-2"):
        (room.folders.inbox / name).mkdir(exist_ok=True)
    for number in range(inbox.MAX_LISTED + 500):
        (room.folders.inbox / "alice-1" / f"{10**18:020}-{number:08x}.bundle").touch()
    (room.folders.inbox / "alice-2" / f"{0:020}-00000000.bundle").touch()
    (room.folders.inbox / "alice-2" / f"{time.time_ns() + 10**15:020}-00000000.bundle").touch()
    looked: list[str] = []
    for name in ("open", "scandir", "listdir"):
        monkeypatch.setattr(os, name, _noted(getattr(os, name), looked))
    monitor.troubled()
    monitor._update(serving=True)
    monkeypatch.undo()
    found = read(tmp_path / "m.prom")
    assert {key[0] for key in set(found) - before} == {"fedssh_waiting_oldest_timestamp_seconds"}
    assert value(found, "waiting_bundles", site="alice-1") == inbox.MAX_LISTED
    assert value(found, "waiting_oldest_timestamp_seconds", site="alice-1") == 1e9
    assert value(found, "waiting_bundles", site="alice-2") == 2
    assert value(found, "waiting_oldest_timestamp_seconds", site="alice-2") is None, "no time that can be"
    at_inbox = {path for path in looked if path.startswith(str(room.folders.inbox))}
    assert at_inbox == {str(room.folders.inbox / name) for name in ("alice-1", "alice-2")}


def _noted(call: Any, looked: list[str]) -> Any:
    def noted(path: Any, *more: Any, **named: Any) -> Any:
        looked.append(str(path))
        return call(path, *more, **named)

    return noted


def test_a_folder_that_is_a_link_is_not_looked_into(room: Room, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / f"{10**18:020}-00000000.bundle").touch()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(room.folders.inbox / "alice-1")
    (room.folders.inbox / "alice-1").symlink_to(tmp_path / "away")
    Monitor(tmp_path / "m.prom", room.folders)._update(serving=True)
    assert value(read(tmp_path / "m.prom"), "waiting_bundles", site="alice-1") == 0


def test_nobody_serves_before_the_loop_came_round(room: Room, tmp_path: Path) -> None:
    """A judge that does not start, or a coordinator who ends at each start, must not look like one at work."""
    path = tmp_path / "m.prom"
    with Monitor(path, room.folders) as monitor:
        until(path.exists, 20)
        found = read(path)
        assert value(found, "serving") == 0 and value(found, "loop_timestamp_seconds") is None
        assert (value(found, "start_timestamp_seconds") or 0) > 1.7e9
        monitor.came_round()
        until(lambda: value(read(path), "serving") == 1, 20)
        assert (value(read(path), "loop_timestamp_seconds") or 0) >= (value(found, "start_timestamp_seconds") or 0)
    assert value(read(path), "serving") == 0


def test_of_two_on_one_file_the_second_says_so_until_the_first_is_gone(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, live = tmp_path / "m.prom", tmp_path / ".m.prom.b.12345678.part"
    live.write_text("another file's")
    with Monitor(path, room.folders) as first:
        first.came_round()
        until(lambda: path.exists() and value(read(path), "serving") == 1, 20)
        mine = tmp_path / ".m.prom.12345678.part"
        mine.write_text("half of what the first writes")
        second = Monitor(path, room.folders)
        before = path.stat().st_ino
        second._update(serving=True)
        second.troubled()
        second._update(serving=True)
        assert mine.read_text() == "half of what the first writes"
        assert path.stat().st_ino == before and value(read(path), "troubles_total") == 0
        [said] = [one.getMessage() for one in caplog.records if "cannot write" in one.getMessage()]
        assert "another `charity serve` writes it" in said and ".m.prom.lock" in said
    second._update(serving=True)
    assert value(read(path), "troubles_total") == 1
    assert not mine.exists() and live.exists()


@pytest.mark.parametrize("member", ["nodes", "genesis", "made", "hash", "time", "rounds"])
def test_a_summary_with_a_wrong_member_is_said_once_and_added_up_anew(
    room: Room, tmp_path: Path, member: str, caplog: pytest.LogCaptureFixture
) -> None:
    room.work()
    summary = json.loads(totals.write(totals_of(room.folders.state)))
    room.folders.summary.write_bytes(totals.write(summary | {member: 7}))
    path = tmp_path / "m.prom"
    with Monitor(path, room.folders) as monitor:
        monitor.came_round()
        until(path.exists, 40)
        until(lambda: value(read(path), "serving") == 1, 40)
    said = [one.getMessage() for one in caplog.records if "cannot write metrics" in one.getMessage()]
    assert len(said) <= 1
    found = read(path)
    assert value(found, "records_total") == len(room.vault.ledger.records())
    assert value(found, "site_enrolled", site="alice-1") == 1


def test_whatever_fails_is_said_once_and_not_raised(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def door() -> bool:
        raise KeyError("of a kind that nobody thought of")

    with Monitor(tmp_path / "m.prom", room.folders, door) as monitor:
        until(lambda: "cannot write metrics" in caplog.text, 20)
        monitor.came_round()
    [said] = [one.getMessage() for one in caplog.records if "cannot write metrics" in one.getMessage()]
    assert "KeyError: 'of a kind that nobody thought of'" in said


def test_a_thread_that_cannot_be_started_is_said(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with Monitor(tmp_path / "m.prom", room.folders):
        pass
    assert "can't start new thread" in caplog.text


def test_without_a_file_there_is_no_thread(room: Room) -> None:
    with Monitor(None, room.folders) as monitor:
        monitor.came_round()
        assert not monitor._thread.is_alive()

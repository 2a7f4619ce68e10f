"""`fedssh watch` without a screen: what is believed, what is remembered, what is told, and how ssh is called."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedssh.chain import Seen
from fedssh.errors import (
    AgentError,
    DecisionError,
    HostKeyError,
    LedgerError,
    RollbackError,
    SettingsError,
    SignatureError,
    UnreachableError,
    UntrustedError,
)
from fedssh.history import contributions, totals, views
from fedssh.history.published import row_of
from fedssh.keys import PrivateKey
from fedssh.rules.events import Invalid
from fedssh.signature import LEDGER, allowed_signers, sign
from fedssh.watch import follow, remembered, text, trust
from fedssh.watch.board import Board
from fedssh.watch.command import Watched, watch
from fedssh.watch.follow import Follower
from fedssh.watch.ssh import NotUnderstoodError, Place, Ssh, _problem, read_place
from fedssh.watch.trust import Trust
from tests.harness.bob import Door
from tests.harness.waiting import until
from tests.harness.watched import HISTORIES, Played, kept

NAMES = sorted(path.name.removesuffix(".tar.gz") for path in HISTORIES.glob("*.tar.gz"))
HOSTILE = "[red]\x1b[2J\u202e[@click=app.quit]bye[/]\x9b31m\x07"
Run = Callable[..., Follower]
NEEDS_SSH = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh (apt install openssh-client)")


@pytest.fixture
def door(tmp_path: Path, keys: dict[str, PrivateKey]) -> Door:
    return Door(tmp_path, keys)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "charity.example.json"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Begins to follow a played door in a thread."""
    monkeypatch.setattr(follow, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    begun: list[tuple[Follower, threading.Thread]] = []

    def begin(source: Played, memory: Path | None = None, trust: Trust | None = None) -> Follower:
        follower = Follower(source, trust or Trust(), memory)
        thread = threading.Thread(target=follower.run, daemon=True)
        thread.start()
        begun.append((follower, thread))
        return follower

    yield begin
    for follower, thread in begun:
        follower.stop()
        thread.join(10)
        assert not thread.is_alive()
        follower.close()


def caught_up(follower: Follower, records: int) -> None:
    until(lambda: follower.error or (follower.standing.caught_up and follower.standing.records == records))
    assert follower.error is None


def failed(follower: Follower) -> AgentError | OSError:
    until(lambda: follower.error)
    assert follower.error is not None
    return follower.error


# What the records say


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("keys", "fedavg")])
def test_what_is_shown_is_what_the_views_say(name: str, run: Run) -> None:
    lines = kept(name)
    records = list(map(row_of, lines))
    follower = run(Played(lines))
    caught_up(follower, len(lines))
    value, whole = follower.value(), totals.fold(records)
    assert value is not None and whole is not None
    assert value["status"] == views.status(whole)
    assert value["best"] == views.best(whole, lambda number: records[number - 1])
    assert value["news"] == list(map(views.history_row, records))
    gains = contributions.contributions(records)
    for row, node in zip(value["sites"], [one for one in views.nodes(whole) if one["role"] == "site"], strict=True):
        assert row["gain"] == gains.get(row["site"])
        assert {name: row[name] for name in ("site", "last", "accepted", "refused")}.items() <= node.items()
    made = [
        one["metrics"][value["metric"]]
        for one in records
        if one["event"] in ("genesis", "accepted", "rollback", "round-accepted")
    ]
    assert [point["value"] for point in value["curve"]] == made


def test_text_has_all_of_it(run: Run) -> None:
    follower = run(Played(kept("krum")))
    caught_up(follower, 17)
    value = follower.value()
    assert value is not None
    told = text.whole(value, follower.standing.checked, 0.0)
    assert told.splitlines()[0].startswith("golden, open · rounds, 1 closed, without end · policy krum:")
    assert "open round  2: 0 of 5 updates in, missing alice-1, alice-2, alice-3, alice-4, alice-5; closes with" in told
    assert "accuracy 0.5167 ▁█ 0.5667 on the holdout, 2 models" in told
    assert "krum of 5 updates: accuracy 0.5667 beats the best so far" in told


def test_sites_are_sorted_as_asked() -> None:
    board = Board()
    for line in kept("best-free"):
        board.add(row_of(line))
    records = list(map(row_of, kept("best-free")))
    value = board.value(lambda number: records[number - 1])
    assert value is not None
    value["sites"][2]["last"] = "2030-01-01T00:00:00.000Z"
    orders = {order: [row[0] for row in text.site_rows(value, 0.0, order)] for order in text.ORDERS}
    assert orders == {
        "as enrolled": ["alice-1", "alice-2", "alice-3"], "last heard": ["alice-3", "alice-2", "alice-1"],
        "gain": ["alice-1", "alice-2", "alice-3"], "scored": ["alice-2", "alice-1", "alice-3"],
    }  # fmt: skip


def test_a_curve_keeps_within_its_line() -> None:
    assert text.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == text.BARS
    assert text.sparkline([0.5], 5) == "▄"
    assert text.sparkline(range(1000), 10) == "▁▂▃▃▄▅▆▆▇█"
    for width in (60, 80, 200):
        value = {"metric": "accuracy", "curve": [{"value": at / 500} for at in range(500)]}
        assert len(text.curve_line(value, width)) <= width
    assert text.curve_line({"metric": "accuracy", "curve": [{"value": None}]}, 80) == "accuracy: not scored"


@pytest.mark.parametrize(
    ("time", "told"),
    [(None, "–"), (-5, "0 s"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"),
     (172_799, "47 h"), (172_800, "2 d"), (86_400_000, "1,000 d")],
)  # fmt: skip
def test_ago(time: int | None, told: str) -> None:
    at = 1_700_000_000
    assert text.ago(None if time is None else "2023-11-14T22:13:20.000Z", at + (time or 0)) == told


def test_what_a_site_said_is_text(door: Door, run: Run) -> None:
    door.append(Invalid(site="alice-1", submission=None, bundle="ab" * 32, reason=HOSTILE))
    follower = run(Played(door.history(0)))
    caught_up(follower, 4)
    value = follower.value()
    assert value is not None
    row = text.news_rows(value)[0]
    assert row[5] == "[red]\\u001b[2J\\u202e[@click=app.quit]bye[/]\\u009b31m\\u0007"
    assert text.whole(value, "", 0.0).replace("\n", "").isprintable()
    assert text.news_rows(value, wanted="@CLICK") == [row]
    assert text.news_rows(value, wanted="nowhere") == []


# What is not believed


def damaged(lines: list[bytes], at: int, **changes: Any) -> list[bytes]:
    outer = json.loads(lines[at]) | changes
    return [*lines[:at], json.dumps(outer, separators=(",", ":"), sort_keys=True).encode() + b"\n", *lines[at + 1 :]]


def test_every_changed_byte_of_a_record_is_named(run: Run) -> None:
    lines = kept("best-free")
    for at in (0, 7, 19):
        text = json.loads(lines[at])["record"]
        for changed in (text.replace('"event"', '"evemt"', 1), text.replace('"time":"2', '"time":"3', 1)):
            error = failed(run(Played(damaged(lines, at, record=changed))))
            assert isinstance(error, UntrustedError) and error.exit_code == 3
            assert f"record {at + 1}" in str(error)


def test_another_signature_is_named(run: Run, keys: dict[str, PrivateKey]) -> None:
    lines = kept("best-free")
    outer = json.loads(lines[4])
    follower = run(Played(damaged(lines, 4, signature=sign(outer["record"].encode(), keys["stranger"], LEDGER))))
    error = failed(follower)
    assert isinstance(error, SignatureError) and str(error).startswith("record 5: signed by key SHA256:")
    assert follower.standing.records == 4
    value = follower.value()
    assert value is not None and value["records"] == 4  # what was checked, and nothing after it


@pytest.mark.parametrize("lines", [[b"{}\n"], [b"hello\n"], [b"\x00" * 10 + b"\n"]], ids=["object", "words", "zeros"])
def test_what_is_no_history_is_refused(run: Run, lines: list[bytes]) -> None:
    error = failed(run(Played(lines)))
    assert isinstance(error, LedgerError) and "record 1" in str(error)


def test_a_lost_and_a_swapped_record_are_noticed(run: Run) -> None:
    lines = kept("best-free")
    assert "record 8 stands where record 7 is expected" in str(failed(run(Played([*lines[:6], *lines[7:]]))))
    assert "record 8 stands where" in str(failed(run(Played([*lines[:6], lines[7], lines[6], *lines[8:]]))))


def test_what_nobody_has_thought_of_ends_the_screen_with_a_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread that reads, and in the one that shows: else "connected" would stand there for ever."""

    def stray(*_: object) -> None:
        raise KeyError("sites")

    with monkeypatch.context() as patch:
        patch.setattr(Follower, "_remember", stray)
        assert "record 21 cannot be followed: KeyError('sites')" in str(failed(run(Played(kept("best-free")))))
    follower = run(Played(kept("best-free")))
    caught_up(follower, 20)
    monkeypatch.setattr("fedssh.watch.board.status", stray)
    assert follower.value() is None
    assert "what the first 20 records say cannot be shown" in str(follower.error)


def test_a_decision_that_the_rules_do_not_give_is_refused(door: Door, run: Run) -> None:
    verdict = door.scored(door.sent(), 0.4)
    door.append(dataclasses.replace(verdict, reason="because we like it"))
    error = failed(run(Played(door.history(0))))
    assert isinstance(error, DecisionError) and "record 4" in str(error)


def test_who_signs_is_whom_a_file_names(
    door: Door, run: Run, keys: dict[str, PrivateKey], tmp_path: Path, memory: Path
) -> None:
    signers = tmp_path / "allowed_signers"
    signers.write_text(allowed_signers({"charity": keys["coordinator"].public}))
    follower = run(Played(door.history(0)), memory, trust.of_signers(signers))
    caught_up(follower, 3)
    assert follower.standing.checked.endswith(f"{keys['coordinator'].public.fingerprint}, as {signers} says")
    signers.write_text(allowed_signers({"charity": keys["stranger"].public}))
    error = failed(run(Played(door.history(0)), None, trust.of_signers(signers)))
    assert isinstance(error, SignatureError) and "record 1" in str(error)
    until(memory.exists)
    with pytest.raises(UntrustedError, match=r"names the coordinator's key SHA256:.* it was SHA256:.* before"):
        Follower(Played([]), trust.of_signers(signers), memory)


def test_an_invitation_names_the_key_and_the_first_record(
    door: Door, run: Run, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    path, lines = tmp_path / "invitation.json", door.history(0)
    said: dict[str, Any] = {"fedssh": 1, "coordinator": keys["coordinator"].public.line}
    path.write_text(json.dumps(said | {"genesis": json.loads(lines[0])["hash"]}))
    caught_up(run(Played(lines), None, trust.of_invitation(path)), 3)
    path.write_text(json.dumps(said))
    caught_up(run(Played(lines), None, trust.of_invitation(path)), 3)
    path.write_text(json.dumps(said | {"genesis": "ab" * 32}))
    error = failed(run(Played(lines), None, trust.of_invitation(path)))
    assert isinstance(error, RollbackError) and "record 1 has the hash" in str(error)
    for wrong in ("[]", "{", "{}", json.dumps(said | {"fedssh": 2}), json.dumps(said | {"genesis": "x"}), "\xff"):
        path.write_bytes(wrong.encode("latin-1"))
        with pytest.raises(SettingsError):
            trust.of_invitation(path)


# What is remembered


def test_the_key_and_the_newest_record_are_remembered(door: Door, run: Run, memory: Path) -> None:
    follower = run(Played(door.history(0)), memory)
    caught_up(follower, 3)
    assert "seen first now: compare it with the coordinator's" in follower.standing.checked
    until(memory.exists)
    known = remembered.read(memory)
    assert known is not None and known.seen == Seen(3, json.loads(door.history(2)[0])["hash"])
    assert memory.stat().st_mode & 0o777 == 0o600
    door.release()
    again = run(Played(door.history(0)), memory)
    caught_up(again, 5)
    assert f"as since {known.since[:10]}" in again.standing.checked


def test_a_history_that_was_cut_off_is_noticed_on_the_next_start(door: Door, run: Run, memory: Path) -> None:
    lines = door.history(0)
    caught_up(run(Played(lines), memory), 3)
    error = failed(run(Played(lines[:2]), memory))
    assert isinstance(error, RollbackError)
    assert str(error) == "the history does not reach record 3, which was seen before"


def test_another_history_is_noticed_on_the_next_start(
    door: Door, run: Run, memory: Path, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    caught_up(run(Played(door.history(0)), memory), 3)
    forked = Door(tmp_path / "other", keys)  # of the same coordinator, at another time
    error = failed(run(Played(forked.history(0)), memory))
    assert isinstance(error, RollbackError) and "record 1 has the hash" in str(error)
    hint = str(error.hint)
    assert hint.startswith("stop here, and ask the coordinator's operator by another way") and str(memory) in hint
    assert "remove" not in hint
    strange = Door(tmp_path / "third", keys, name="stranger")
    error = failed(run(Played(strange.history(0)), memory))
    assert isinstance(error, SignatureError) and "record 1" in str(error) and error.hint == hint


def test_what_another_process_has_seen_since_is_not_forgotten(door: Door, run: Run, memory: Path) -> None:
    old = door.history(0)
    door.release()
    caught_up(run(Played(door.history(0)), memory), 5)
    known = remembered.read(memory)
    assert known is not None
    remembered.write(memory, dataclasses.replace(known, seen=Seen(3, json.loads(old[2])["hash"])))
    assert remembered.read(memory) == known


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sequence":1}', b"\xff"])
def test_a_damaged_memory_is_not_guessed_anew(memory: Path, content: bytes) -> None:
    memory.parent.mkdir()
    memory.write_bytes(content)
    with pytest.raises(SettingsError, match="is damaged"):
        Follower(Played([]), Trust(), memory)


def test_each_place_has_a_memory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert remembered.file_of("charity.example:2222") == tmp_path / "fedssh/watch/charity.example:2222.json"
    assert remembered.file_of("../../x").parent == tmp_path / "fedssh/watch"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert remembered.file_of("x") == tmp_path / ".local/state/fedssh/watch/x.json"
    assert remembered.file_of(read_place("me@[::1]:22").known_as).name == "me@[::1]:22.json"
    names = [remembered.file_of("é" * number).name for number in (200, 201)]
    assert names[0] != names[1] and max(map(len, names)) < 200


@NEEDS_SSH
@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("me@h:2222", ["HostName=real.example"]),
        ("me@h", ["Port=2222", "HostName=real.example"]),
        ("h", ["User=me", "Port=2222", "HostName=real.example"]),
        ("me@real.example", ["Port=2222"]),
    ],
)
def test_what_is_remembered_is_of_where_ssh_gets_to(words: str, options: list[str]) -> None:
    """However it is said; and where an option leads elsewhere, that is another history."""
    none = Path("/dev/null")
    assert Ssh(read_place(words), options=options, known_hosts=none).reached() == Place("me", "real.example", 2222)
    other = Ssh(read_place(words), options=["Port=2223", *options]).reached()
    assert (other.port == 2223) == (":" not in words)


def fake_ssh(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An `ssh` that does what a script says."""
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


@pytest.mark.parametrize("script", ["exit 255", "echo user me", "printf 'user me\\nhostname h\\nport x\\n'", ":"])
def test_an_ssh_that_does_not_say_where_it_gets_to(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ssh(tmp_path, monkeypatch, script)
    place = read_place("me@h:2222")
    assert Ssh(place, options=["HostName=x"]).reached() == place


def test_an_ssh_that_does_not_answer_is_not_taken_for_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ssh(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr("fedssh.watch.ssh.ASK_SECONDS", 0.1)
    with pytest.raises(UnreachableError, match="ssh -G"):
        Ssh(read_place("h")).reached()


def test_two_doors_by_one_name_have_two_memories(
    door: Door,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keys: dict[str, PrivateKey],
) -> None:
    """As with `-o Port=`: the second is not taken for the first, gone back."""
    other = Door(tmp_path / "other", keys)
    for name, lines in (("2222", door.history(0)), ("2223", other.history(0))):
        (tmp_path / name).write_bytes(b"".join(lines))
    script = f"""for word in "$@"; do case $word in Port=*) port=${{word#Port=}};; esac; done
[ "$1" = -G ] && exec printf 'user me\\nhostname h\\nport %s\\n' "$port"
cat {tmp_path}/$port"""
    fake_ssh(tmp_path, monkeypatch, script)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for port in ("2222", "2223", "2222"):
        assert watch(Watched("me@h", options=[f"Port={port}"], once=True)) == 0
    assert sorted(path.name for path in (tmp_path / "state/fedssh/watch").iterdir()) == [
        "me@h:2222.json", "me@h:2223.json"
    ]  # fmt: skip
    capsys.readouterr()


def test_a_stream_that_ends_within_a_line_is_not_the_whole(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "lines").write_bytes(b"".join(door.history(0))[:-9])
    fake_ssh(tmp_path, monkeypatch, f"cat {tmp_path}/lines")
    with pytest.raises(UnreachableError, match="in the middle of a line"):
        watch(Watched("h", once=True))
    assert capsys.readouterr().out == ""


def test_what_cannot_be_kept_is_told_so(door: Door, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=r"cannot be kept in .*file/fedssh/watch: Not a directory") as caught:
        Follower(Played([]), Trust(), remembered.file_of("h"))
    assert "XDG_STATE_HOME" in str(caught.value.hint)
    (tmp_path / "state" / "fedssh").mkdir(parents=True)
    (tmp_path / "state" / "fedssh" / "watch").symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    error = failed(run(Played(door.history(0)), remembered.file_of("h")))
    assert isinstance(error, SettingsError) and "cannot be kept in" in str(error)


# Connections that end


def test_it_goes_on_where_the_connection_ended(door: Door, run: Run) -> None:
    source = Played(door.history(0))
    follower = run(source)
    caught_up(follower, 3)
    source.show(*door.history(3))
    door.release()
    until(lambda: (3, True) in source.asked)
    source.cut(door.history(0), gone=True)
    until(lambda: "not connected, next try in 0 s: Connection refused" in follower.standing.connection)
    assert not follower.standing.connected
    source.gone = False
    caught_up(follower, 5)
    until(lambda: follower.standing.connection == "connected")
    assert (2, False) in source.asked  # the record that was read last, once more


def test_records_come_one_by_one(door: Door, run: Run) -> None:
    source = Played(door.history(0))
    follower = run(source)
    caught_up(follower, 3)
    for number in range(4, 8):
        door.append(Invalid(site="alice-1", submission=None, bundle=f"{number:064x}", reason="no tar"))
        source.show(*door.history(number - 1))
        caught_up(follower, number)
    assert source.asked == [(0, False), (3, True)]


def test_a_history_that_is_another_one_after_a_break_is_noticed(door: Door, run: Run) -> None:
    lines = door.history(0)
    source = Played(lines)
    caught_up(follower := run(source), 3)
    until(lambda: (3, True) in source.asked)
    source.cut(lines[:2])
    assert str(failed(follower)) == "the history does not reach record 3, which was seen before"


def test_an_older_door_is_asked_again_and_again(door: Door, run: Run) -> None:
    source = Played(door.history(0), old=True)
    follower = run(source)
    caught_up(follower, 3)
    door.release()
    source.show(*door.history(3))
    caught_up(follower, 5)
    assert "its door is an older one" in follower.standing.connection
    assert source.asked.count((3, True)) == 1
    source.shown = source.shown[:4]
    assert "does not reach record 5" in str(failed(follower))


# ssh


def test_ssh_is_called_without_a_shell() -> None:
    ssh = Ssh(read_place("charity@charity.example:2222"), (Path("key"),), ("ProxyJump=jump",), Path("/a b/known"))
    assert ssh.command("history", "--export", "--after", "0") == [
        "ssh", "-T", "-p", "2222", "-i", "key", "-o", "BatchMode=yes", "-o", 'UserKnownHostsFile="/a b/known"',
        "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "ProxyJump=jump",
        "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "--", "charity@charity.example",
        "history", "--export", "--after", "0",
    ]  # fmt: skip
    plain = Ssh(read_place("charity")).command("history")
    assert plain[:2] == ["ssh", "-T"] and plain[-3:] == ["--", "charity", "history"] and "-p" not in plain


PLACES = {
    "charity": ("", "charity", None), "charity@h": ("charity", "h", None), "h:22": ("", "h", 22),
    "me@my_host-1.example:2222": ("me", "my_host-1.example", 2222), "[::1]:22": ("", "::1", 22),
    "me@[fe80::1%eth0]": ("me", "fe80::1%eth0", None),
}  # fmt: skip


@pytest.mark.parametrize("words", PLACES)
def test_places(words: str) -> None:
    place = read_place(words)
    assert (place.user, place.host, place.port) == PLACES[words]


@pytest.mark.parametrize(
    "words",
    ["", "-oProxyCommand=id", "-l", "-x@host", "me@-oProxyCommand=id", "a b", "h:0", "h:65536", "h:x", "me@", "@h",
     "a@b@c", "ssh://h", "h/x", "h\nx", "h\x1b", "::1", "h:22:22"],
)  # fmt: skip
def test_what_is_no_place_is_refused(words: str) -> None:
    with pytest.raises(SettingsError):
        read_place(words)


def test_a_host_is_no_longer_than_a_name_may_be() -> None:
    assert read_place("h" * 253).host == "h" * 253
    with pytest.raises(SettingsError, match="no host's name has 300 letters, 253 at most"):
        read_place("h" * 300)


def test_a_port_is_said_once() -> None:
    assert read_place("h", 2222).port == read_place("h:2222", 2222).port == 2222
    with pytest.raises(SettingsError, match="22 in 'h:22' and 2222 by --port"):
        read_place("h:22", 2222)


CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
The fingerprint for the ED25519 key sent by the remote host is
SHA256:Qx.
Host key verification failed."""


def test_what_the_end_of_ssh_means() -> None:
    place = read_place("charity@h:2222")

    def problem(code: int, said: str) -> AgentError:
        return _problem(place, code, said.splitlines())

    changed = problem(255, CHANGED)
    assert isinstance(changed, HostKeyError) and changed.exit_code == 3
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in str(changed) and "SHA256:Qx." in str(changed)
    assert "@@" not in str(changed) and "compare the new fingerprint" in str(changed.hint)
    unknown = problem(255, "No ED25519 host key is known for h\nHost key verification failed.")
    assert isinstance(unknown, HostKeyError) and "ssh -p 2222 charity@h status" in str(unknown.hint)
    denied = problem(255, "charity@h: Permission denied (publickey).")
    assert isinstance(denied, SettingsError) and not isinstance(denied, NotUnderstoodError)
    for words in ("command-line: line 0: Bad configuration option: x", "command-line line 0: Bad port 'x'."):
        unusable = problem(255, words)
        assert isinstance(unusable, SettingsError) and words in str(unusable)
    for code, said in ((255, "connect to host h port 2222: Connection refused"), (4, "later: busy"), (1, ""), (-9, "")):
        assert isinstance(problem(code, said), UnreachableError)
    assert isinstance(problem(2, "history: no option --follow"), NotUnderstoodError)
    assert isinstance(problem(3, "refused: not enrolled"), UntrustedError)


def test_what_cannot_be_drawn_on_is_told_what_else_there_is() -> None:
    with pytest.raises(SettingsError) as caught:
        watch(Watched("charity@h", port=2222))  # pytest has no terminal
    assert "`ssh -p 2222 charity@h history --follow`" in str(caught.value.hint)
    with pytest.raises(SettingsError, match="--json is for --once"):
        watch(Watched("h", as_json=True))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError) as caught:
        watch(Watched("h"))
    assert "pip install 'fedssh[look]'" in str(caught.value.hint)


def test_where_nothing_is_installed_the_extra_is_named() -> None:
    without = "sys.modules |= dict.fromkeys(('cryptography', 'textual', 'rich')); sys.argv = ['fedssh', 'watch', 'h']"
    program = f"import sys; {without}; import fedssh.cli; fedssh.cli.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "fedssh: error: cryptography is missing\nfedssh: hint: pip install 'fedssh[look]'\n"

"""What models are called: given, moved, taken away, read back by sites and people, and never by more than a name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from fedssh.charity import operate
from fedssh.charity.cli import charity
from fedssh.charity.folders import Folders
from fedssh.charity.vault import Vault
from fedssh.door.admission import DoorSettings, Enrolled, forced_command
from fedssh.errors import AgentError, DecisionError
from fedssh.forms import canonical
from fedssh.history import names, published, totals, views
from fedssh.rules import events, replay
from fedssh.rules.events import EVENTS, HEAD, Record, Tagged, Unknown, Untagged
from fedssh.rules.federation import derive
from fedssh.rules.orders import is_tag, objection
from fedssh.rules.replay import Replay
from fedssh.rules.stored import from_value, to_value
from fedssh.verify import check_export
from tests.vectors.histories import kept

NAMED = "best-named"  # champion and v1.0_rc-1 are record 10, the current model is that of record 6, by record 17
NEW = ("tagged", "untagged", "tested")
EVIL = "fine \x1b[2J\x1b]0;owned\x07\x9b31m\u202e\x7f <img onerror=alert(1)>"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A coordinator whose models have names."""
    return kept.unpack(NAMED, tmp_path)


def asked(state: Path, *words: str) -> Result:
    return CliRunner().invoke(charity, [*words, "--state", str(state)])


def told(state: Path, *words: str) -> Any:
    result = asked(state, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def at_the_door(state: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    entry = json.loads((state / "outbox" / "sites.json").read_bytes())["sites"][0]
    argv = forced_command(DoorSettings(state=state), Enrolled(entry["site"], entry["role"], entry["key"]))
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": line}
    return subprocess.run(argv, capture_output=True, env=environment, stdin=subprocess.DEVNULL, check=False, timeout=20)


def otherwise(record: Record, said: Tagged | Untagged | events.Tested) -> Record:
    head = {name: record.fields[name] for name in HEAD} | {"event": said.name}
    return Record(record.sequence, record.hash, canonical(said.fields() | head), record.signature)


# What may be said


@given(st.text(max_size=70))
def test_a_name_is_of_its_form_and_never_a_number(text: str) -> None:
    right = bool(re.fullmatch(r"[a-z][a-z0-9._-]*", text, re.ASCII)) and len(text) <= 64 and text != "best"
    assert is_tag(text) == right


@pytest.mark.parametrize("text", ["", "best", "1", "17", "v 1", "V1", "v1\n", "-v", ".v", "é", "a" * 65, "a/b", "ⅴ1"])
def test_what_is_no_name(text: str, state: Path) -> None:
    assert not is_tag(text)
    result = asked(state, "tag", "--note", "x", "--by", "me", "--", "1", text)
    assert result.exit_code != 0
    assert kept.records(NAMED)[-1].sequence == len(told(state, "history"))


def test_only_what_made_a_model_current_can_be_named(state: Path) -> None:
    for number, event in ((2, "site-added"), (5, "release"), (8, "tagged"), (14, "tested")):
        result = asked(state, "tag", str(number), "other", "--by", "me")
        assert (result.exit_code, str(result.exception)) == (
            1,
            f"record {number} is {event}, which made no model current",
        )
        assert getattr(result.exception, "hint", "") == (
            "name the model of genesis, an accepted record or round, or a rollback"
        )
    result = asked(state, "tag", "99", "other", "--by", "me")
    assert "record 99" in str(result.exception)


def test_a_model_that_is_not_stored_any_more_gets_no_name(state: Path) -> None:
    Folders(state).model(told(state, "show", "champion")["model"]["sha256"]).unlink()
    result = asked(state, "tag", "10", "again", "--by", "me")
    assert str(result.exception) == "the model of record 10 is not stored any more"


def test_who_says_so_is_the_login_name_or_whoever_is_given(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ward-2")
    assert asked(state, "tag", "1", "first").stdout == "the model of record 1 is first, record 22\n"
    assert asked(state, "untag", "first", "--by", "ward-3", "--note", "done").exit_code == 0
    one, two = told(state, "tags", "--history")["moves"][-2:]
    assert (one["record"], one["event"], one["tag"], one["of"], one["by"]) == (22, "tagged", "first", 1, "ward-2")
    assert (two["event"], two["tag"], two["of"], two["by"], two["note"]) == (
        "untagged",
        "first",
        None,
        "ward-3",
        "done",
    )
    assert "note" not in Vault(Folders(state)).ledger.record(22).fields
    for wrong in ("", " ", "x" * 65):
        assert "--by has" in str(asked(state, "tag", "1", "first", f"--by={wrong}").exception)


def test_a_name_moves_and_is_not_given_twice(state: Path) -> None:
    assert "called champion already" in str(asked(state, "tag", "champion", "champion", "--by", "me").exception)
    assert asked(state, "tag", "1", "champion", "--by", "me").exit_code == 0
    row = next(row for row in told(state, "tags")["names"] if row["tag"] == "champion")
    assert (row["of"], row["record"], row["by"], row["note"], row["current"]) == (1, 22, "me", None, False)
    assert told(state, "verify")["records"] == 22
    assert "no model is called 'nobody'" in str(asked(state, "untag", "nobody", "--by", "me").exception)


# Read back


def test_since_when_by_whom_and_why_is_in_the_chain(state: Path) -> None:
    rows = {row["tag"]: row for row in told(state, "tags")["names"]}
    assert list(rows) == ["champion", "v1.0_rc-1"]
    records = {record.sequence: record for record in kept.records(NAMED)}
    for row in rows.values():
        said = records[row["record"]]
        assert isinstance(said.said, Tagged)
        assert (row["since"], row["by"], row["of"]) == (said.time, said.said.by, said.said.of)
        assert row["note"] == said.fields.get("note")
        assert row["model"] == records[row["of"]].fields["model"]["sha256"]
    moves = told(state, "tags", "--history")["moves"]
    assert [move["record"] for move in moves] == [
        n for n, one in records.items() if one.event in ("tagged", "untagged")
    ]


def test_a_rollback_leaves_names_where_they_are(state: Path) -> None:
    """And what a name is of is asked by the model: that of a rollback is the model that it went back to."""
    assert kept.records(NAMED)[16].event == "rollback"
    assert told(state, "show", "champion")["sequence"] == 10
    assert told(state, "best")["names"] == []  # record 17 went back to the model of 6, which has no name
    assert asked(state, "tag", "6", "back", "--by", "me").exit_code == 0
    assert [one["tag"] for one in told(state, "best")["names"]] == ["back"]
    assert asked(state, "rollback", "champion").exit_code == 0
    assert told(state, "best")["reason"].startswith("back to 10:")
    assert [one["tag"] for one in told(state, "best")["names"]] == ["champion", "v1.0_rc-1"]
    assert [row["current"] for row in told(state, "tags")["names"]] == [False, True, True]


@pytest.mark.parametrize("name", ["champion", "v1.0_rc-1", "best", "17"])
def test_a_name_stands_for_its_number_in_every_verb(name: str, state: Path, tmp_path: Path) -> None:
    number = {"champion": 10, "v1.0_rc-1": 10, "best": 17, "17": 17}[name]
    assert told(state, "show", name)["sequence"] == number
    assert told(state, "best", name)["sequence"] == number
    assert (told(state, "diff", "1", name)["first"], told(state, "diff", "1", name)["second"]) == (1, number)
    for line in (f"show {name}", f"best {name}", f"diff 1 {name}"):
        there, here = at_the_door(state, f"{line} --json"), told(state, *line.split())
        assert (there.returncode, there.stderr) == (0, b"")
        assert json.loads(there.stdout).items() <= here.items()
        if line.startswith("show"):  # charity says more of the others: where the file is, and how far tensors moved
            assert at_the_door(state, line).stdout.decode() == asked(state, *line.split()).stdout


def test_the_door_tells_names_as_charity_does(state: Path) -> None:
    for line in ("tags", "tags --history", "tags --json", "tags --json --history", "status"):
        there = at_the_door(state, line)
        assert (there.returncode, there.stdout.decode()) == (0, asked(state, *line.split()).stdout)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("show champoin", 2, "no model is called 'champoin'; names are champion, v1.0_rc-1"),
        ("best 5", 2, "record 5 is release, which made no model current"),
        ("best 99", 2, "the history has no record 99"),
        ("best 1 2", 2, "the form is: best [--json] [N]"),
        ("show", 2, "the form is: show [--json] N"),
        ("show Champion", 2, "the record is 'Champion', expected a whole number"),
        ("tags --last 2", 2, "the form is: tags [--json] [--history]"),
    ],
)
def test_what_nobody_is_called(line: str, code: int, said: str, state: Path) -> None:
    found = at_the_door(state, line)
    assert (found.returncode, found.stdout) == (code, b"") and said in found.stderr.decode()
    assert asked(state, *shlex.split(line)).exit_code != 0


def test_what_a_note_says_cannot_act_on_a_terminal(state: Path) -> None:
    assert asked(state, "tag", "1", "evil", "--by", "\x1b[31mme", "--note", EVIL).exit_code == 0
    for line in ("tags", "tags --history", "history", "show 22", "best evil"):
        for text in (asked(state, *line.split()).stdout, at_the_door(state, line).stdout.decode()):
            assert text.replace("\n", "").isprintable() and "fine" in text, line
    for line in ("tags --json", "history --export"):
        assert at_the_door(state, line).stdout.isascii()
    assert told(state, "tags")["names"][1]["note"] == EVIL
    outbox = state / "outbox"
    assert check_export(outbox / "ledger.jsonl", outbox / "allowed_signers")["records"] == 22


# The test split


def test_every_use_of_the_test_split_is_counted(state: Path) -> None:
    found = told(state, "best", "champion")["tested"]
    assert (found["times"], found["in_all"], found["record"], found["examples"]) == (2, 3, 16, 60)
    assert found["assessed"]["images"] == 60
    assert (told(state, "best")["tested"]["times"], told(state, "best", "1")["tested"]) == (1, None)
    text = asked(state, "best", "champion").stdout
    assert "scored 2 times, other models once, record 16" in text and "ON THE TEST SPLIT, 60 EXAMPLES" in text
    rows = [row for row in told(state, "history") if row["event"] == "tested"]
    assert [row["score"] for row in rows] == [None] * 3  # a score is of the holdout
    assert rows[0]["reason"].startswith("the model of 6 on the test split, 60 examples: accuracy 0.6")


def test_record_is_for_her_own_test_split(state: Path, tmp_path: Path) -> None:
    for words in (["--split", "val"], ["--data", str(tmp_path)]):
        assert "--record is for her own test split" in str(asked(state, "score", "--record", *words).exception)


# Who checks


def test_a_name_of_what_was_never_current_is_noticed() -> None:
    held, records = Replay(), kept.records(NAMED)
    for record in records[:7]:
        held.follow(record)
    tagged, untagged = (next(one for one in records if one.event == event) for event in ("tagged", "untagged"))
    lies: dict[str, Tagged | Untagged | events.Tested] = {
        "record 5 made no model current": Tagged(of=5, tag="v0", by="x"),
        "record 9000 made no model current": Tagged(of=9000, tag="v0", by="x"),
        "no model can be called 'best'": Tagged(of=1, tag="best", by="x"),
        "no model is called 'v9'": Untagged(tag="v9", by="x"),
        "its split is": events.Tested(of=1, split="val", examples=1, metrics={}),
        "record 2 made no model current": events.Tested(of=2, split="test", examples=1, metrics={}),
        "no model can score the accuracy": events.Tested(of=1, split="test", examples=1, metrics={"accuracy": 1.5}),
    }
    for why, said in lies.items():
        with pytest.raises(DecisionError, match=f"^record 8 is .*{re.escape(why)}"):
            held.follow(otherwise(tagged, said))
    assert untagged.event == "untagged" and held.follow(tagged).names == {"v0": 1}


def test_who_followed_with_an_older_version_goes_on_with_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passed over `tagged` and knows no name, so that one is taken away is the operator's word."""
    records, older = kept.records(NAMED), Replay()
    with monkeypatch.context() as patch:
        patch.setattr(events, "EVENTS", {name: kind for name, kind in EVENTS.items() if name not in NEW})
        for record in (dataclasses.replace(one) for one in records[:18]):
            older.follow(record)
            assert isinstance(record.said, Unknown) == (record.event in ("tagged", "tested"))
    assert older.state is not None and older.state.names == {} and older.unchecked[replay.NEWER] == 8
    value = to_value(older.state)
    assert "names" not in value
    held = Replay(from_value(json.loads(canonical(value)), older.state.sequence, older.state.head))
    held.remember(json.loads(canonical(older.remembered())))
    for record in records[18:]:
        held.follow(record)
    assert held.unchecked[replay.OLDER] == 2 and held.state is not None
    assert held.state.head == derive(records).head


GOOD = ((0.9, 0.0, 0.5), (0.2, 0.5, 0.5), (0.1, 1.0, 1.0))
WRONG = {
    "empty": (),
    "a-point-of-two": ((0.9, 0.5), (0.1, 1.0, 1.0)),
    "falls": ((0.9, 0.5, 0.5), (0.2, 0.4, 0.6), (0.1, 1.0, 1.0)),
    "the-probability-rises": ((0.1, 0.0, 0.5), (0.9, 1.0, 1.0)),
    "beyond-one": ((0.9, 0.0, 1.5), (0.1, 1.0, 1.0)),
    "ends-early": ((0.9, 0.0, 0.5), (0.2, 0.5, 0.5)),
    "below-nothing": ((0.9, -0.1, 0.5), (0.1, 1.0, 1.0)),
    "of-no-probability": ((0.9, 0.0, 0.5), (-0.1, 1.0, 1.0)),
    "too-many": (*((1 - number / 1000, number / 1000, 0.0) for number in range(300)), (0.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("curve", [GOOD, *WRONG.values()], ids=["good", *WRONG])
def test_a_curve_that_can_be_none_is_noticed(curve: tuple[tuple[float, ...], ...]) -> None:
    held, records = Replay(), kept.records(NAMED)
    for record in records[:7]:
        held.follow(record)
    assert held.state is not None
    said = events.Tested(of=1, split="test", examples=1, metrics={}, curve=curve)
    record = otherwise(next(one for one in records if one.event == "tagged"), said)
    if curve is GOOD:
        held.follow(record)
    else:
        with pytest.raises(DecisionError, match="its curve does not rise"):
            held.follow(record)


@pytest.mark.parametrize("curve", WRONG.values(), ids=WRONG)
def test_what_no_reader_would_take_is_not_written(curve: tuple[tuple[float, ...], ...], state: Path) -> None:
    """A record stays for ever, and every site would end at it."""
    vault = Vault(Folders(state))
    before = vault.state.sequence
    with pytest.raises(AgentError, match="cannot be written down"):
        operate.tell_tested(vault, 1, 60, {"accuracy": 0.5, "loss": 0.1}, [list(point) for point in curve])
    with pytest.raises(AgentError, match="no model can score the accuracy"):
        operate.tell_tested(vault, 1, 60, {"accuracy": 1.5, "loss": 0.1})
    assert vault.state.sequence == before


def test_what_is_ordered_is_what_replay_takes() -> None:
    state = derive(kept.records(NAMED))
    assert state.names == {"champion": 10, "v1.0_rc-1": 10}
    assert objection(state, Tagged(of=10, tag="champion", by="x")) and not objection(
        state, Tagged(of=6, tag="champion", by="x")
    )
    assert objection(state, Untagged(tag="v0", by="x")) and not objection(state, Untagged(tag="champion", by="x"))


def test_a_summary_of_a_version_without_names_is_thrown_away() -> None:
    """Whether it was written by one, or gone on with by one that passed over a name."""
    rows = [one.fields | {"hash": one.hash} for one in kept.records(NAMED)]
    whole = totals.fold(rows)
    assert whole is not None and totals.write(totals.read(totals.write(whole)) or {}) == totals.write(whole)
    without = {name: value for name, value in whole.items() if name not in ("names", "named", "tested", "back")}
    assert totals.read(totals.write(without)) is None
    assert totals.read(totals.write(whole | {"sequence": 99})) is None
    for middle in range(1, len(rows)):
        summary = totals.write(totals.fold(rows[:middle]) or {})
        assert totals.write(totals.fold(rows[middle:], totals.read(summary)) or {}) == totals.write(whole)


def test_an_earlier_model_is_told_of_as_it_was(state: Path) -> None:
    value = told(state, "best", "6")
    assert (value["until"], value["releases"], value["judged_since"]) == (10, [7], 1)
    assert told(state, "best", "17")["until"] is None and told(state, "best", "17") == told(state, "best")
    with pytest.raises(published.NoRecord, match="none has a name yet"):
        names.stands_for(totals.fold([kept.records("fedavg")[0].fields | {"hash": ""}]) or {}, "champion")
    assert views.why({"event": "tagged", "of": 3, "tag": "a", "by": "b"}) == "record 3 is a, by b"

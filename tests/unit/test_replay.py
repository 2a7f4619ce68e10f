"""Histories held against their own rules: what was recorded passes, and what could have been recorded instead does not.

The histories are those of tests/vectors/histories. Every record is changed in every member, one at a time; what nobody
can check is told in `WORD`, with the reason, and everything else is noticed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gzip
import itertools
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedssh.chain import record_of
from fedssh.errors import DecisionError, LedgerError
from fedssh.forms import canonical
from fedssh.rules import replay
from fedssh.rules.events import (
    HEAD,
    Accepted,
    Blob,
    Counted,
    Event,
    Genesis,
    Record,
    Refused,
    Report,
    RoundAccepted,
    RoundClosed,
    RoundRefused,
    Verdict,
)
from fedssh.rules.federation import Federation, derive
from fedssh.rules.options import server_start
from fedssh.rules.replay import Replay
from fedssh.rules.typed import ABSENT, known

VECTORS = Path(__file__).parents[1] / "vectors" / "histories"
Fields = dict[str, Any]
History = list[Record]

UNCHECKED = {
    "best-free": {replay.OPERATOR: 4, replay.BUNDLE: 4, replay.JUDGE: 1, replay.UNSOUND: 2},
    "fedavg-off": {replay.OPERATOR: 2, replay.MADE: 2, replay.JUDGE: 1, replay.UNSOUND: 1},
    "merge-ladder": {replay.OPERATOR: 3, replay.CHOSEN: 1, replay.HIDDEN: 3},
    "memory-krum": {replay.OPERATOR: 3, replay.NEAR: 2, replay.MADE: 2},
    "memory-straggler": {replay.OPERATOR: 3, replay.CLOCK: 3, replay.MADE: 3},
}

OWN = "what the site says of itself; it finds another word in its own verdict"
SCORES = "only the coordinator has the holdout, and only the main metric decides"
BYTES = "only she has the models of all sites"
OPERATOR = "what an operator decides"
BUNDLE = "a bundle that could not be judged is gone"
OF_HERS = {replay.JUDGE, replay.UNSOUND, replay.HIDDEN, replay.OPERATOR}
REMARK = "what was conspicuous in the layers of a model is seen by the judge only"
FOUND = "on how many images of the holdout it differs, as far as two models of these accuracies can, and it is accepted"
OLDER = "a release of an older version told less; where one before it told of it, it must"

# What may be changed somewhere without anybody's notice, by event and member, and why.
TURN = "what went through a channel in a turn"
WORD = {
    ("accepted", "site"): "whose it is, where no turn and no staleness says more; the sender finds no verdict",
    ("accepted", "submission"): OWN,
    ("accepted", "session"): OWN,
    ("accepted", "epoch"): OWN,
    ("accepted", "examples"): OWN,
    ("accepted", "builds_on"): OWN,
    ("accepted", "claim"): OWN,
    ("accepted", "candidate"): BYTES,
    ("accepted", "model"): BYTES,
    ("accepted", "metrics"): SCORES,
    ("accepted", "metrics.main under a ladder"): "which of its steps a model reached, as far as it is accepted",
    ("accepted", "margin"): FOUND,
    ("accepted", "reason, a remark"): REMARK,
    ("accepted", "work"): TURN,
    ("accepted", "state"): BYTES,
    ("refused", "work"): TURN,
    ("refused", "site"): "whose it is, as in what is accepted",
    ("refused", "submission"): OWN,
    ("refused", "session"): OWN,
    ("refused", "epoch"): OWN,
    ("refused", "examples"): OWN,
    ("refused", "builds_on"): OWN,
    ("refused", "claim"): OWN,
    ("refused", "model"): BYTES,
    ("refused", "architecture"): "of what is not opened; else it is the federation's",
    ("refused", "metrics"): SCORES,
    ("refused", "metrics.main"): "of what is refused for its loss, under a policy by which that comes first",
    ("refused", "reason, without scores"): "why the judge could not score it",
    ("refused", "reason, a remark"): REMARK,
    ("counted", "site"): "whose it is, as far as the round lets them",
    ("counted", "submission"): OWN,
    ("counted", "session"): OWN,
    ("counted", "epoch"): OWN,
    ("counted", "examples"): OWN,
    ("counted", "claim"): OWN,
    ("counted", "model"): BYTES,
    ("counted", "candidate"): BYTES,
    ("counted", "work"): TURN,
    ("masks", "submission"): OWN,
    ("masks", "site"): "whose signature it is, for the other sites to check, who have its key from people",
    ("masks", "agreed"): "what is signed, likewise",
    ("masks", "builds_on"): OWN,
    ("masks", "advert"): "who signed a site's keys is for the other sites to check, who have its key from people",
    ("masks", "shares"): "what is sealed, only those can open whom it is sealed for",
    ("report", "site"): "whose it is, where it is nobody's turn",
    ("report", "submission"): OWN,
    ("report", "session"): OWN,
    ("report", "epochs"): OWN,
    ("report", "checkpoints"): OWN,
    ("report", "examples"): OWN,
    ("report", "builds_on"): OWN,
    ("report", "metrics"): OWN,
    ("invalid", "site"): BUNDLE,
    ("invalid", "submission"): BUNDLE,
    ("invalid", "bundle"): BUNDLE,
    ("invalid", "reason"): BUNDLE,
    ("garbage", "count"): BUNDLE,
    ("garbage", "seconds"): BUNDLE,
    ("garbage", "reason"): BUNDLE,
    ("round-accepted", "metrics"): SCORES,
    ("round-accepted", "metrics.main under a ladder"): "which of its steps a result reached, as far as it is accepted",
    ("round-accepted", "margin"): FOUND,
    ("round-accepted", "model"): BYTES,
    ("round-accepted", "groups"): "of how many images the sum of a group is that does not hold, and what it scores",
    ("round-accepted", "examples"): "of how many images a sum under masks is comes out with the sum",
    ("round-accepted", "state"): BYTES,
    ("round-refused", "metrics"): SCORES,
    ("round-refused", "reason, a remark"): REMARK,
    ("round-refused", "reason, without scores"): "why the judge could not score it, or how the operator ended it",
    ("release", "federation, less of it"): OLDER,
    ("site-added", "site"): OPERATOR,
    ("site-added", "role"): OPERATOR,
    ("site-added", "key"): OPERATOR,
    ("site-revoked", "site"): OPERATOR,
    ("site-revoked", "reason"): OPERATOR,
    ("turn-passed", "reason"): OPERATOR,
    ("rollback", "reason"): OPERATOR,
    ("finished", "reason"): OPERATOR,
    ("reopened", "sessions"): OPERATOR,
    ("reopened", "reason"): OPERATOR,
    ("tagged", "of"): OPERATOR,
    ("tagged", "tag"): OPERATOR,
    ("tagged", "by"): OPERATOR,
    ("tagged", "note"): OPERATOR,
    ("untagged", "tag"): OPERATOR,
    ("untagged", "by"): OPERATOR,
    ("untagged", "note"): OPERATOR,
    ("tested", "of"): "only the coordinator has the test split, and nothing is decided by it",
    ("tested", "examples"): "likewise",
    ("tested", "metrics"): "likewise",
    ("tested", "curve"): "likewise",
}

NEVER = {
    ("refused", "margin"),
    ("refused", "state"),
    ("counted", "margin"),
    ("round-refused", "margin"),
    ("accepted", "privacy"),  # of plans with privacy; see tests/integration/test_charity_private.py
    ("refused", "privacy"),
    ("counted", "privacy"),
    ("masks", "late"),  # see tests/unit/test_masking.py
    ("round-refused", "examples"),
    ("round-refused", "groups"),
    ("report", "passed"),  # of sites that train when new images come; a word of theirs, as all of a report
}  # of what is accepted only; a record
# that says it all the same is refused, see test_replay_attacks

# What no record that follows contradicts, of what was agreed; everything else in record 1 is noticed later.
AGREED = {
    "spec": "what `architecture` is the hash of; who joins checks it",
    "class_names": "who trains checks it",
    "plan": "every release repeats it, to whoever trains; only its metric decides here",
    "coordinator": "whoever checks the signatures has her key",
    "examples": "how the first model came about",
    "epochs": "how the first model came about",
    "holdout": "nobody else has it",
    "rates": "how many bundles were judged is counted, and not refused",
}


MEMORY = {
    "memory-ladder-free",
    "memory-merge-relay",
    "memory-krum",
    "memory-step",
    "memory-gather",
    "memory-split",
    "memory-splitfed",
    "memory-masks",
    "memory-masks-groups",
    "memory-parameter-free",
    "memory-parameter-free-rounds",
}  # the others say the same as she who signs


def _read(path: Path) -> History:
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            exported = archive.extractfile("coordinator/outbox/ledger.jsonl")
            assert exported
            return [record_of(line) for line in exported]
    return [
        Record(line["sequence"], line["hash"], line["record"].encode(), "")
        for line in map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
    ]


PATHS = [path for path in sorted(VECTORS.glob("*.gz")) if not re.search(r"keys\.tar|\.views\.", path.name)]
HISTORIES = {path.name.partition(".")[0]: _read(path) for path in PATHS}


def test_these_are_all() -> None:
    assert len([name for name in HISTORIES if name.startswith("memory-")]) == 35 and len(HISTORIES) == 56


@pytest.mark.parametrize("name", HISTORIES)
def test_what_was_recorded_is_what_the_rules_give(name: str) -> None:
    held = Replay()
    for record in HISTORIES[name]:
        held.follow(record)
    assert held.state == derive(HISTORIES[name])
    assert held.unchecked.keys() <= set(replay.WORDS)
    assert dict(held.unchecked) == UNCHECKED.get(name, held.unchecked)


def test_what_is_due_at_a_deadline_is_not_due_before_it() -> None:
    held, early = Replay(), 0
    for record in HISTORIES["fedavg"]:
        if record.event == "round-extended":
            with pytest.raises(
                DecisionError, match=f"^record {record.sequence} is .* rules nothing of the kind is due$"
            ):
                forked(held).follow(said_otherwise(record, record.said, time="2026-01-31T12:00:00.123Z"))
            early += 1
        held.follow(record)
    assert early == 2 and held.unchecked[replay.CLOCK] == 3


@pytest.mark.parametrize("name", ["best-steered", "merge-relay", "fedavg-momentum", "memory-straggler"])
def test_who_goes_on_another_day_knows_the_same(name: str) -> None:
    held = Replay()
    for record in HISTORIES[name]:
        again = Replay(held.state)
        again.remember(json.loads(canonical(held.remembered())))
        assert again.follow(record) == held.follow(record)
        assert canonical(again.remembered()) == canonical(held.remembered())


def test_following_loads_neither_numpy_nor_what_trains() -> None:
    code = (
        "import sys; from fedssh.rules import replay; from fedssh.rules.policies import read_policy;"
        "from fedssh.rules.options import server_start; server_start(read_policy('fedavg:server=adam').values);"
        "sys.exit(len({'numpy', 'scipy', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Lies, one member at a time


def said_otherwise(record: Record, said: Event | Fields, event: str = "", time: str = "") -> Record:
    """The record as if it said something else; hash and signature are for others to check."""
    fields = said.fields() if isinstance(said, Event) else said
    head = {name: record.fields[name] for name in HEAD if name in record.fields}
    head |= {"event": event or (said.name if isinstance(said, Event) else record.event), "time": time or record.time}
    return Record(record.sequence, record.hash, canonical({**fields, **head}), record.signature)


def forked(held: Replay) -> Replay:
    """One that may go another way."""
    other = copy.copy(held)
    other.unchecked = copy.copy(held.unchecked)
    other.remember(held.remembered())
    return other


def before_each(history: History) -> Iterator[tuple[Replay, Record]]:
    """Every record but the first, with the history before it."""
    held = Replay()
    for record in history:
        if record.sequence > 1:
            yield held, record
        held.go_on(record)


def values_by_member() -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for history in HISTORIES.values():
        for record in history:
            for name, value in record.said.fields().items():
                if len(found[record.event, name]) < 3 and value not in found[record.event, name]:
                    found[record.event, name].append(value)
    return found


def others(value: Any, step: float) -> Iterator[Any]:
    """What could stand there instead of a value."""
    if value is not None:
        yield None
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value + 2)
    elif isinstance(value, float):
        yield from (value + 0.01, round(value + step, 10))
    elif isinstance(value, str):
        yield f"{value}x"
    elif isinstance(value, list):
        yield from ([*value[:place], *value[place + 1 :]] for place in range(len(value))[:3])
        yield from (value[::-1], [*value, *value[:1]])
        for place, one in enumerate(value[:2]):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in others(one, step))
    elif isinstance(value, dict):
        for name, one in value.items():
            yield {other: kept for other, kept in value.items() if other != name}
            yield from (value | {name: other} for other in others(one, step))


def lies(record: Record, values: Mapping[tuple[str, str], list[Any]], step: float) -> Iterator[tuple[str, Fields]]:
    """The member that is another one or missing, and what the record says then."""
    fields = record.said.fields()
    for name, value in fields.items():
        yield name, {other: one for other, one in fields.items() if other != name}
        for other in itertools.chain(values[record.event, name], others(value, step)):
            if canonical(other) != canonical(value):
                yield name, fields | {name: other}


def kind_of(lie: str, held: Replay, record: Record, fields: Fields) -> str:
    """The member, and where it matters, in which way it is another one."""
    state, told, words = held.state, record.said.fields(), words_of(held, record)
    assert state
    old, new = told[lie], fields.get(lie)
    if lie == "metrics" and isinstance(record.said, Verdict | RoundClosed):
        main = [(one or {}).get(state.metric) for one in (old, new)]
        return lie if main[0] == main[1] else f"metrics.main{' under a ladder' * state.gate.is_ladder}"
    if lie == "reason" and isinstance(record.said, Verdict | RoundClosed):
        if replay.UNSOUND in words:
            return "reason, a remark"
        if words & {replay.JUDGE, replay.HIDDEN, replay.OPERATOR} and not told["metrics"]:
            return "reason, without scores"
        if replay.ENDED.fullmatch(str(new)):
            return "reason, the operator's"
    if lie == "federation" and isinstance(new, dict) and new.keys() < old.keys():
        return "federation, less of it"
    return lie


def words_of(held: Replay, record: Record) -> set[str]:
    """Whose word has to do for a record as it is."""
    other = forked(held)
    other.unchecked.clear()
    with contextlib.suppress(DecisionError):  # too early, by its time
        other.follow(record)
    return set(other.unchecked)


def test_every_lie_is_noticed_but_for_what_is_somebodys_word() -> None:
    values, tried, unnoticed, count = values_by_member(), set(), defaultdict[tuple[str, str], list[str]](list), 0
    for name, history in HISTORIES.items():
        if name.startswith("memory-") and name not in MEMORY:
            continue
        last = {record.event: record.sequence for record in history}
        seen: set[str] = set()
        for held, record in before_each(history):
            assert held.state
            sort = f"{record.event} {[name in record.fields for name in ('slots', 'advert', 'shares', 'answer')]}"
            if sort in seen and record.sequence != last[record.event]:
                continue  # the first and the last of each kind
            seen.add(sort)
            for lie, fields in lies(record, values, held.state.gate.margin):
                count += 1
                tried.add((record.event, lie))
                try:
                    forked(held).follow(said_otherwise(record, fields))
                except DecisionError as error:
                    assert str(error).startswith(f"record {record.sequence} is {record.event}, by the federation's own")
                except LedgerError as error:
                    assert f"record {record.sequence}" in str(error)
                else:
                    kind = (record.event, kind_of(lie, held, record, fields))
                    unnoticed[kind].append(f"record {record.sequence} of {name}: {lie} is {fields.get(lie)!r}")
    assert count > 15_000, count
    assert {kind: found[:3] for kind, found in unnoticed.items() if kind not in WORD} == {}
    assert WORD.keys() - unnoticed.keys() == set(), "noticed after all"
    assert set(every_member()) - NEVER == tried


def every_member() -> Iterator[tuple[str, str]]:
    """What the records of these histories can say, but for the first."""
    for event in {record.event: type(record.said) for history in HISTORIES.values() for record in history[1:]}.values():
        for field in dataclasses.fields(event):
            if field.name != "more" and not (
                event is Counted and field.name in ("share", "staleness", "base", "slots", "state")
            ):
                yield event.name, field.name


def test_what_was_agreed_is_held_against_all_that_follows() -> None:
    noticed, unnoticed, values = set[str](), set[str](), values_by_member()
    for name in ("best-relay", "merge-free", "memory-fraction", "memory-ladder-free"):
        first, *others = HISTORIES[name]
        for lie, fields in lies(first, values, 0.05):
            held = Replay()
            try:
                held.follow(said_otherwise(first, fields))
            except (DecisionError, LedgerError):
                continue  # it cannot be, of itself or with the rest of it
            try:
                for record in others:
                    held.follow(record)
            except (DecisionError, LedgerError):
                noticed.add(lie)
            else:
                unnoticed.add(lie)
    assert unnoticed - noticed == AGREED.keys()
    apart = {
        "more",
        "weights",
        "network",
        "table",
        "decision",
        "site_scores",
        "evidence",
    }  # which these histories do not have
    assert noticed == {field.name for field in dataclasses.fields(Genesis)} - AGREED.keys() - apart


# The other verdict, with members that fit it as far as they can


def accepted(state: Federation, said: Refused) -> Iterator[Event]:
    same = {name: value for name, value in vars(said).items() if value is not None}
    model = said.model or Blob(sha256="ab" * 32, size=99)
    for metrics in (said.metrics, said.metrics and {**said.metrics, "loss": 0.0}):
        yield Accepted(**same | {"model": model, "metrics": metrics})
        if metrics and (value := metrics[state.metric]) is not None:
            have, bar = state.current.metrics[state.metric], state.current.bar
            for reason in (
                f"beats {have:.4f}",
                f"beats the best so far, {bar:.4f}",
                f"equals the best so far, {bar:.4f}",
            ):
                yield Accepted(
                    **same | {"model": model, "metrics": metrics, "reason": f"{state.metric} {value:.4f} {reason}"}
                )


def refused(state: Federation, said: Accepted) -> Iterator[Event]:
    hidden: Fields = {"metrics": None, "share": None} if state.gate.is_ladder and said.share is not ABSENT else {}
    hidden |= {"metrics": None, "margin": ABSENT} if state.gate.paired else {}
    assert said.metrics
    value, have = said.metrics[state.metric], state.current.metrics[state.metric]
    for reason in (
        "revoked",
        said.reason,
        f"{state.metric} {value:.4f} is below the current {have:.4f}",
        f"{state.metric} {value:.4f} is more than {state.gate.margin:g} below the best so far, {state.current.bar:.4f}",
    ):
        candidate = {} if said.candidate is ABSENT else {"model": said.candidate}
        yield Refused(**vars(said) | hidden | candidate | {"reason": reason})


def not_counted(state: Federation, said: Counted) -> Iterator[Event]:
    same = {name: value for name, value in vars(said).items() if name != "round"}
    for reason in (
        "revoked",
        f"round {said.round} is closed",
        f"{said.site} has an update in round {said.round} already",
        f"{said.site} is not among the sites of round {said.round}",
        said.reason,
    ):
        yield Refused(**same | {"reason": reason})


def counted(state: Federation, said: Refused) -> Iterator[Event]:
    current = state.round
    number = current.number if current else state.rounds
    updates, sites = (len(current.updates), len(current.sites)) if current else (0, 1)
    reason = f"update {updates + 1} of {sites} in round {number}"
    yield Counted(**vars(said) | {"round": number, "reason": reason})


def report_refused(state: Federation, said: Report) -> Iterator[Event]:
    same = {name: getattr(said, name) for name in ("site", "submission", "session", "examples", "builds_on")}
    for reason in ("revoked", "it is nobody's turn", f"the turn of {said.site} is over; it is nobody's turn"):
        yield Refused(
            **same, epoch=said.epochs, claim=said.metrics, metrics=None, model=None, architecture=None,
            against=state.current.of, current_metrics=state.current.metrics, reason=reason,
        )  # fmt: skip


def reported(state: Federation, said: Refused) -> Iterator[Event]:
    same = {name: getattr(said, name) for name in ("site", "submission", "session", "examples", "builds_on")}
    yield Report(**same, epochs=said.epoch, checkpoints=1, metrics=known(said.claim, None))


def round_refused(state: Federation, said: RoundAccepted) -> Iterator[Event]:
    same = {name: value for name, value in vars(said).items() if name not in ("model", "state")}
    empty = {"metrics": None, "updates": tuple(dataclasses.replace(part, share=None) for part in said.updates)}
    few = f"{len(said.updates)} of {len(said.updates) + 1} updates, and no site is left that could send one"
    assert said.metrics
    below = f"{state.metric} {said.metrics[state.metric]:.4f} is more than {state.gate.margin:g} below the best so far"
    yield RoundRefused(**same)
    yield RoundRefused(**same | empty | {"reason": few})
    yield RoundRefused(**same | {"reason": f"{state.policy.name} of {len(said.updates)} updates: {below}"})


def round_accepted(state: Federation, said: RoundRefused) -> Iterator[Event]:
    sets = tuple(Blob(sha256=f"{place}" * 64, size=99) for place in range(len(server_start(state.policy.values))))
    model = Blob(sha256="ab" * 32, size=99)
    even = tuple(dataclasses.replace(part, share=1 / len(said.updates)) for part in said.updates)
    yield RoundAccepted(**vars(said), model=model, state=sets)
    yield RoundAccepted(**vars(said) | {"updates": even, "metrics": said.metrics or {"accuracy": 0.9, "loss": 0.1}},
                        model=model, state=sets)  # fmt: skip


def flips(state: Federation, said: Event) -> Iterator[Event]:
    if isinstance(said, Accepted):
        yield from refused(state, said)
    elif isinstance(said, Counted):
        yield from not_counted(state, said)
    elif isinstance(said, Refused):
        yield from reported(state, said) if said.model is None else accepted(state, said)
        yield from counted(state, said) if said.model and state.policy.rounds else ()
    elif isinstance(said, Report):
        yield from report_refused(state, said)
    elif isinstance(said, RoundAccepted):
        yield from round_refused(state, said)
    elif isinstance(said, RoundRefused):
        yield from round_accepted(state, said)


def test_the_other_verdict_is_never_what_the_rules_give() -> None:
    tried = Counter[tuple[str, str]]()
    for name, history in HISTORIES.items():
        for held, record in before_each(history):
            assert held.state
            for said in flips(held.state, record.said):
                try:
                    forked(held).follow(said_otherwise(record, said))
                except DecisionError as error:
                    assert re.match(
                        f"record {record.sequence} is {said.name}, by the federation's own rules .", str(error)
                    )
                    tried[record.event, said.name] += 1
                else:  # only where she says what nobody else can find
                    assert words_of(held, record) & OF_HERS, f"record {record.sequence} of {name} as {said}"
    pairs = [
        ("accepted", "refused"),
        ("counted", "refused"),
        ("round-accepted", "round-refused"),
        ("report", "refused"),
    ]
    assert tried.keys() == {*pairs, *(pair[::-1] for pair in pairs)}
    assert min(tried.values()) > 2, tried

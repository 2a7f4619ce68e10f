"""Snapshots of the federation's state: exactly the state again, signed, and of this history only."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity import snapshot
from fedssh.errors import LedgerError
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.rules.events import Record
from fedssh.rules.federation import Federation, advance
from fedssh.rules.policies import described, read_policy
from fedssh.rules.stored import from_value, to_value

POLICIES = [str(row["policy"]) for row in described()]
SITES = ["alice-1", "alice-2", "alice-3"]


def history(policy: str, seed: int, count: int = 120, **terms: Any) -> list[Record]:
    """A history with everything in it that can happen under a policy, in some order."""
    draw = random.Random(seed)
    state: Federation | None = None
    records: list[Record] = []
    rounds = read_policy(policy).rounds

    def metrics() -> dict[str, Any]:
        return {"accuracy": draw.random(), "loss": draw.random() * 1e-7, "auc": None}

    def model() -> dict[str, Any]:
        return {"sha256": draw.randbytes(32).hex(), "size": draw.randrange(2**40)}

    def add(event: str, **fields: Any) -> None:
        nonlocal state
        time = f"2026-01-31T{len(records) // 60:02}:{len(records) % 60:02}:00.{draw.randrange(1000):03}Z"
        head = {"sequence": len(records) + 1, "previous": records[-1].hash if records else "", "time": time}
        text = canonical(fields | head | {"event": event})
        records.append(Record(len(records) + 1, hashlib.sha256(text).hexdigest(), text, "signature"))
        state = advance(state, records[-1])

    def judged(event: str, **more: Any) -> None:
        site = draw.choice(SITES)
        said = {"site": site, "submission": f"id-{len(records)}", "session": 1, "epoch": 1, "examples": 9, "reason": ""}
        add(event, **said, **{"model": model(), "metrics": metrics(), "current_metrics": metrics()} | more)

    add("genesis", federation="test", policy=read_policy(policy).text, plan={"metric": "accuracy"}, metrics=metrics(),
        model=model(), schedule="rounds" if rounds else draw.choice(["free", "relay"]), sessions=draw.choice([None, 3]),
        seed=1, spec={}, examples=1, rates={"submissions_per_hour": 20, "invalid_per_hour": 3}, **terms)  # fmt: skip
    for site in SITES:
        add("site-added", site=site, role="site", key=f"ssh-rsa {site}")
    while len(records) < count:
        assert state is not None
        now = state.round
        if now is None and rounds and not state.finished:
            add("round-opened", round=state.rounds + 1, sites=draw.sample(SITES, 2), reason="")
            continue
        match draw.randrange(11):
            case 0 | 1 | 2 if now is not None:
                judged("counted", round=now.number)
            case 0 | 1 | 2:
                judged("accepted")
            case 3:
                judged("refused")
            case 4:
                judged("invalid", bundle="ab", model=None)
            case 5:
                claim = {"loss": 1.0, "accuracy": 0.5}
                more = {"checkpoints": draw.randrange(2), "builds_on": draw.randrange(len(records))}
                judged("report", epochs=1, metrics=claim, **more)
            case 6:
                add("garbage", site=draw.choice(SITES), count=5, seconds=1.5, reason="")
            case 7:
                standing = state.standing().fields()
                add("release", federation=standing, of=1, model=model(), metrics=metrics(), recipients=["é\x7f\u2028"])
            case 8 if now is not None:
                states = [model()] if draw.random() < 0.5 else []
                event = draw.choice(["round-accepted", "round-refused", "round-extended"])
                if event == "round-extended":
                    add(event, round=now.number, reason="", sites=SITES)
                    continue
                closed = {"current_metrics": metrics(), "against": 1, "updates": [], "missing": SITES[:1]}
                made = {"model": model(), "state": states} if event == "round-accepted" else {}
                add(event, round=now.number, reason="", metrics=metrics(), **closed, **made)
            case 8:
                add("rollback", to=1, model=model(), metrics=metrics(), reason="")
            case 9:
                site = draw.choice(SITES)
                add("site-revoked", site=site, reason="")
                add("site-added", site=site, role=draw.choice(["site", "auditor"]), key=f"ssh-rsa {len(records)}")
            case 10 if draw.random() < 0.2:
                add("finished", reason="")
                add("reopened", sessions=draw.choice([None, 9]), reason="")
    return records


def fold(records: list[Record], state: Federation | None = None) -> list[Federation]:
    states = []
    for record in records:
        state = advance(state, record)
        states.append(state)
    return states


@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_from_a_snapshot_goes_on_as_the_state_itself(policy: str) -> None:
    for seed in range(4):
        records = history(policy, seed)
        states = fold(records)
        for at, state in enumerate(states, 1):
            _ = state.round and state.round.awaited  # what is kept once it was asked for is no part of a state
            written = canonical(to_value(state))
            again = from_value(json.loads(written), state.sequence, state.head)
            assert again == state
            assert canonical(to_value(again)) == written
            if at % 17 == 0:
                assert fold(records[at:], again) == states[at:]


@pytest.fixture
def ledger(tmp_path: Path, keys: dict[str, PrivateKey]) -> Ledger:
    ledger = Ledger.create(tmp_path / "ledger.db")
    for record in history("best", 1, 5):
        fields = {name: value for name, value in record.fields.items() if name not in ("sequence", "previous", "time")}
        ledger.append(fields.pop("event"), fields, keys["coordinator"])
    return ledger


def test_a_snapshot_is_read_back_only_as_it_was_signed(
    ledger: Ledger, keys: dict[str, PrivateKey], tmp_path: Path
) -> None:
    path, key = tmp_path / "snapshot.json", keys["coordinator"]
    state = fold(ledger.records())[-1]
    assert snapshot.read(path, key.public, ledger) is None
    snapshot.write(path, state, key)
    assert snapshot.read(path, key.public, ledger) == state
    good = path.read_bytes()
    for bad in (good.replace(b"alice-2", b"alice-9"), good[:-9], b"", b"[]", b"{}", b'{"snapshot":1,"signature":2}'):
        path.write_bytes(bad)
        with pytest.raises(LedgerError, match="is not a state that this coordinator signed"):
            snapshot.read(path, key.public, ledger)
    snapshot.write(path, state, keys["stranger"])
    with pytest.raises(LedgerError, match="signed by key"):
        snapshot.read(path, key.public, ledger)


def test_a_snapshot_of_another_history_is_noticed(ledger: Ledger, keys: dict[str, PrivateKey], tmp_path: Path) -> None:
    path, key = tmp_path / "snapshot.json", keys["coordinator"]
    other = fold(history("best", 2, 5))[-1]
    snapshot.write(path, other, key)
    with pytest.raises(LedgerError, match="the ledger has not the record 5"):
        snapshot.read(path, key.public, ledger)
    snapshot.write(path, fold(history("best", 2, 50))[-1], key)
    with pytest.raises(LedgerError, match="the ledger has not the record"):
        snapshot.read(path, key.public, ledger)

"""No site is enrolled for whom no release could be written any more."""

from __future__ import annotations

import base64
import dataclasses
import os
from pathlib import Path

import pytest

from fedssh.charity.capacity import check_room, sizes
from fedssh.errors import LedgerError, SettingsError
from fedssh.forms import MAX_BYTES, canonical
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.rules.events import Blob, Genesis
from fedssh.rules.federation import Current, Federation, Member
from fedssh.rules.policies import read_policy

METRICS = {"accuracy": 2 / 3, "loss": 1 / 3, "auc": None, "confusion": [[125, 10], [9, 380]]}


def key(number: int) -> str:
    return "ssh-rsa " + base64.b64encode(number.to_bytes(4, "big") + os.urandom(16)).decode()


def federation(policy: str, count: int) -> Federation:
    model = Blob(sha256="ab" * 32, size=901_234)
    genesis = Genesis(
        federation="test",
        spec={},
        plan={"metric": "accuracy"},
        policy=read_policy(policy).text,
        gate="on",
        margin=0.01,
        schedule="rounds" if read_policy(policy).rounds else "free",
        sessions=None,
        model=model,
        metrics=METRICS,
        examples=1,
        seed=1,
    )
    members = tuple(Member(f"hospital-{number:04}", "site", key(number)) for number in range(count))
    return Federation(genesis, count + 1, "cd" * 32, Current(1, model, METRICS), None, members)


@pytest.mark.parametrize(("policy", "at_least"), [("merge", 700), ("fedavg", 350)])
def test_as_many_are_enrolled_as_every_reader_can_read_of(policy: str, at_least: int) -> None:
    low, high = 1, 2000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            check_room(federation(policy, middle), "one-more", key(9999))
            low = middle
        except SettingsError:
            high = middle
    assert low >= at_least
    full = federation(policy, low + 1)
    assert max(sizes(full).values()) < MAX_BYTES
    with pytest.raises(SettingsError, match=f"with {high + 1} sites takes 6") as refused:
        check_room(full, "one-more", key(9999))
    assert refused.value.hint and f"no more than the {high} sites that are enrolled have room" in refused.value.hint
    check_room(full, full.members[0].name, key(9999))  # the same one again, with another key
    left = dataclasses.replace(full.members[0], revoked=True)
    check_room(dataclasses.replace(full, members=(left, *full.members[1:])), "one-more", key(9999))


def test_a_record_that_no_reader_takes_is_refused_before_it_is_written(
    tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    ledger = Ledger.create(tmp_path / "ledger.db")
    before = ledger.append("genesis", {"federation": "test"}, keys["coordinator"])
    with pytest.raises(LedgerError, match=r"the release record 2 would have 6\d,\d\d\d bytes, every reader takes at"):
        ledger.append("release", {"federation": "x" * 65_500}, keys["coordinator"])
    assert ledger.records() == [before]
    room = MAX_BYTES - len(canonical(before.fields)) - 200
    assert ledger.append("release", {"federation": "x" * room}, keys["coordinator"]).sequence == 2

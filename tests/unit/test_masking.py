"""A round under masks at the board and at Bob: who is missing when, what is late, a liar, and a kill at every step."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.bob import masking as bobs
from fedssh.bob import peers
from fedssh.bob.masking import Waits
from fedssh.bundle import seal_report
from fedssh.errors import BundleError, DecisionError, MaskError, SettingsError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.keys import PrivateKey, make_key
from fedssh.masks.site import MaskedRound
from fedssh.rules import masking, records, stored
from fedssh.rules.events import Counted, Local, Masks, RoundAccepted, RoundClosed, SiteRevoked, Spent
from fedssh.rules.masking import Advert, Roster
from fedssh.rules.policies import read_policy
from fedssh.rules.replay import Replay
from fedssh.rules.rounds import Due
from fedssh.rules.typed import ABSENT
from tests.harness.masked import DEADLINE, GENESIS, POLICY, Table, changed, told
from tests.unit.test_replay import HISTORIES

SIX = tuple(f"alice-{number}" for number in range(1, 7))
FOUR, THREE = SIX[:4], SIX[:3]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder / name, name) for name in (*SIX, "coordinator", "mallory")}


def test_a_round_gives_the_mean_and_the_next_one_has_its_keys(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, THREE, keys)
    assert records.opening(table.state, math.inf) is None, "nobody has given keys"
    for number in (1, 2):
        if number == 1:
            table.open()
        else:
            table.played.add(records.opening(table.state, table.now))  # the keys came with the answers
            table.played.release()
        with pytest.raises(Waits):
            table.mask("alice-1")
        table.settle_partners()
        table.send()
        table.settle_sum()
        table.say()
        found, wanted = table.sum(), table.wanted(*THREE)
        assert found[1] == wanted[1] and np.abs(found[0] - wanted[0]).max() < 1e-7
        assert told(table.state) == {name: {"seed"} for name in THREE}
        table.close()
    assert set(table.state.adverts) == set(THREE) and table.state.rounds == 2
    for name in THREE:  # the secrets of what is over are gone
        assert not table.act(name)
        kept = json.loads(table.place(name).masks.read_bytes())["rounds"]
        assert [one["round"] for one in kept] == [3]


@pytest.mark.parametrize("partners", [FOUR, FOUR[:3], FOUR[1:]])
def test_whoever_is_missing_what_comes_out_is_the_mean_of_the_others(
    partners: tuple[str, ...], tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    """Of four, three must give shares, send, and answer. Every combination: tests/unit/test_masks.py."""
    some = [*itertools.combinations(partners, 3), partners] if len(partners) > 3 else [partners]
    for place, (arrived, answering) in enumerate(zip(some, reversed(some), strict=True)):
        table = Table(tmp_path / str(place), FOUR, keys)
        table.open()
        table.settle_partners(*partners)
        table.send(*arrived)
        table.settle_sum(DEADLINE)
        table.say(*answering)
        assert records.due_now(table.state, table.now) is Due.CLOSE
        assert records.too_few(table.state, table.state.round) is None  # type: ignore[arg-type]
        found, wanted = table.sum(), table.wanted(*arrived)
        assert found[1] == wanted[1] and np.abs(found[0] - wanted[0]).max() < 1e-7
        assert told(table.state) == {name: {"seed" if name in arrived else "key"} for name in partners}
        assert stored.from_value(stored.to_value(table.state), table.state.sequence, table.state.head) == table.state


def test_too_few_end_a_round_and_nothing_comes_out(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    # too few keys for a round, then enough; who has none is left out
    table = Table(tmp_path / "keys", FOUR, keys)
    table.say("alice-1", "alice-2")
    assert records.opening(table.state, table.now + 10 * DEADLINE) is None
    table.say("alice-4")
    assert records.opening(table.state, table.now + DEADLINE - 1) is None
    opened = records.opening(table.state, table.now + DEADLINE)
    assert opened and opened.sites == ("alice-1", "alice-2", "alice-4") and "1 without keys" in opened.reason
    # too few shares
    table = Table(tmp_path / "shares", FOUR, keys)
    table.open()
    table.say("alice-1", "alice-2")
    assert records.due_now(table.state, since(table) + DEADLINE / 4 - 1) is Due.NOTHING
    assert records.due_now(table.state, since(table) + DEADLINE / 4) is Due.CLOSE
    assert why(table) == "2 of 3 sites gave shares in time; no sum came out"
    # too few updates
    table = Table(tmp_path / "updates", FOUR, keys)
    table.open()
    table.settle_partners()
    table.send("alice-1", "alice-2")
    assert table.state.round
    assert records.due_now(table.state, table.state.round.opened + DEADLINE - 1) is Due.NOTHING
    table.later(DEADLINE)
    assert records.due_now(table.state, table.now) is Due.CLOSE
    assert why(table) == "2 of 3 masked updates came in time; no sum came out"
    few = records.too_few(table.state, table.state.round)
    assert few
    table.played.add(records.closed_empty(table.state, table.state.round, few))
    assert not table.state.round and table.state.rounds == 1
    # too few answers
    table = Table(tmp_path / "answers", FOUR, keys)
    table.open()
    table.settle_partners()
    table.send()
    table.settle_sum()
    table.say("alice-1", "alice-3")
    assert records.due_now(table.state, since(table) + DEADLINE / 4 - 1) is Due.NOTHING
    assert records.due_now(table.state, since(table) + DEADLINE / 4) is Due.CLOSE
    assert why(table) == "2 of 3 sites answered in time; no sum came out"


def test_who_is_revoked_is_not_in_the_sum(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path / "before", FOUR, keys)
    table.open()
    table.settle_partners()
    table.send()
    revoked = SiteRevoked(site="alice-2", reason="left")
    table.played.add(revoked)
    table.settle_sum()
    table.say("alice-1", "alice-3", "alice-4")
    found, wanted = table.sum(), table.wanted("alice-1", "alice-3", "alice-4")
    assert found[1] == wanted[1] and np.abs(found[0] - wanted[0]).max() < 1e-7
    table = Table(tmp_path / "after", FOUR, keys)
    table.open()
    table.settle_partners()
    table.send()
    table.settle_sum()
    table.played.add(revoked)
    table.say("alice-1", "alice-3", "alice-4")
    assert why(table) == "alice-2 was revoked, whose update is in the sum; no sum came out"


def since(table: Table) -> float:
    """When the open round last went on."""
    assert table.state.round
    return table.state.round.since


def why(table: Table) -> str:
    assert table.state.round
    decided = records.too_few(table.state, table.state.round)
    assert decided and not decided.accept
    return decided.reason


def test_what_comes_too_late_is_recorded_and_changes_nothing(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, FOUR, keys)
    table.open()
    table.act("alice-4")  # his shares are on their way
    table.settle_partners(*THREE)
    [late] = table.take("alice-4")
    assert late.late == ("shares",)
    with pytest.raises(BundleError, match="round 1 goes on without this site"):
        table.mask("alice-4")
    counted = records.counted(table.state, table.played.submission("alice-4", claim=None, examples=0))
    assert counted.name == "refused" and counted.reason == "alice-4 has no masks in round 1"
    table.send(*THREE)
    table.settle_sum()
    assert (
        table.state.round
        and "round 1 is closing"
        in records.counted(table.state, table.played.submission("alice-4", claim=None, examples=0)).reason
    )
    for name in THREE:
        table.act(name)
    table.take("alice-1"), table.take("alice-2")
    [answer] = table.waiting("alice-3")
    table.take("alice-3")
    table.close()
    again = records.masks(table.state, dataclasses.replace(said_of(answer), submission="another"))
    assert again.late == ("advert", "answer")


def said_of(word: Any) -> Masks:
    parts = {part: getattr(word, part) for part in ("advert", "shares", "agreed", "answer")}
    return Masks(site=word.sender, submission=word.id, builds_on=word.builds_on, **parts)


@pytest.mark.parametrize(
    ("part", "changes", "why"),
    [
        ("advert", {"site": "alice-2"}, "its advert is of alice-2"),
        ("advert", {"sealing": "00"}, "not of 32 bytes"),
        ("advert", {"federation": "no"}, "names no round of a federation"),
        ("advert", {"round": 3}, "its keys are for round 3, the next one is 2"),
        ("advert", {"more": {"new": 1}}, "unknown member 'new'"),
        ("shares", {"site": "alice-2"}, "of another roster"),
        ("shares", {"seed": "00"}, "are not of their size"),
        ("shares", {"sealed": {}}, "not for each site"),
        ("shares", {"marks": {name: ["00", "00"] for name in THREE}}, "are not marked"),
        ("answer", {"arrived": THREE[:2]}, "about others than arrived"),
        ("answer", {"shares": {}}, "not about each partner"),
        ("answer", {"shares": dict.fromkeys(THREE, "00")}, "has no share of alice-1"),
        ("answer", {"shares": dict.fromkeys(THREE, "00" * 66)}, "tells another share of alice-1 than was marked"),
    ],
)
def test_what_is_malformed_is_invalid(
    part: str, changes: Mapping[str, Any], why: str, tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    table = Table(tmp_path, THREE, keys)
    table.open()
    if part == "shares":
        table.act("alice-1")
    else:
        table.settle_partners()
        table.send()
        table.settle_sum()
        table.act("alice-1")
    [word] = table.waiting("alice-1")
    said = said_of(word)
    assert records.masks_objection(table.state, said) == ""
    wrong = dataclasses.replace(said, **{part: dataclasses.replace(getattr(said, part), **changes)})
    assert why in records.masks_objection(table.state, wrong)
    table.played.lie(wrong, why)


def test_an_empty_word_or_one_that_nobody_agreed_to_is_invalid(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, THREE, keys)
    table.act("alice-1")
    said = said_of(table.waiting("alice-1")[0])
    assert "it says 0 of advert, shares, agreed, answer" in records.masks_objection(
        table.state, dataclasses.replace(said, advert=ABSENT)
    )
    assert "no site of the federation" in records.masks_objection(
        table.state, dataclasses.replace(said, site="mallory")
    )
    plain = dataclasses.replace(
        table.state, genesis=dataclasses.replace(table.state.genesis, policy=read_policy("fedavg").text)
    )
    assert records.masks_objection(plain, said) == "no masks were agreed"


def test_claims_that_tell_of_one_update_are_not_sealed(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, THREE, keys)
    table.open()
    table.settle_partners()
    for changes in ({"examples": 5}, {"metrics": Local(loss=0.1, accuracy=0.9)}):
        with pytest.raises(BundleError, match="the claim tells of this update alone"):
            table.mask("alice-1", **changes)
        sent = table.played.submission(
            "alice-1", **({"claim": None, "examples": 5} if "examples" in changes else {"examples": 0})
        )
        table.played.lie(records.counted(table.state, sent), "under masks nobody tells")
    with open(table.base, "rb") as model, pytest.raises(BundleError, match="the model file has plain weights"):
        table.bobs["alice-1"].masked(table.claim("alice-1"), model)


# a coordinator who lies: all end Bob with exit code 3, and he has said nothing


def test_a_coordinator_who_lies_is_refused_at_bob(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, FOUR, keys)
    table.open()
    state = table.state
    assert state.round
    roster = state.round.groups[0].roster

    def with_advert(advert: Advert) -> Any:
        others = [one for one in roster.adverts if one.site != advert.site]
        return changed(state, roster=Roster.of([*others, advert]))

    hers = MaskedRound.begin(GENESIS, 1, "alice-2")
    exchanged = dataclasses.replace(hers.advert(keys["mallory"]))
    refuses(table, with_advert(exchanged), "the key that is pinned of alice-2 has not signed its keys")
    refuses(table, with_advert(dataclasses.replace(exchanged, signed="")), "has not signed its keys")
    own = MaskedRound.begin(GENESIS, 1, "alice-1").advert(keys["mallory"])
    refuses(table, with_advert(own), "the roster has other keys of this site")
    invented = [MaskedRound.begin(GENESIS, 1, f"alice-{number}").advert(keys["mallory"]) for number in (7, 8)]
    mine = roster.advert("alice-1")
    refuses(table, changed(state, roster=Roster.of([mine, *invented])), "has alice-7, who is no peer of this site")
    replayed = [MaskedRound.begin(GENESIS, 9, name).advert(keys[name]) for name in FOUR]
    refuses(table, changed(state, roster=Roster.of(replayed)), "the roster is of round 9, this is round 1")
    foreign = [MaskedRound.begin("e" * 64, 1, name).advert(keys[name]) for name in FOUR]
    refuses(table, changed(state, roster=Roster.of(foreign)), "the roster is of round 1, this is round 1")
    # two rosters, one after the other: also by a Bob who was started again
    table.say()
    again = [*(one for one in roster.adverts if one.site != "alice-2"), hers.advert(keys["alice-2"])]
    table.restart("alice-1")
    refuses(table, changed(state, roster=Roster.of(again), shares={}), "two rosters of round 1 came")
    # other partners after the vector was masked
    table.played.add(records.partners(table.state, table.now))
    table.restart("alice-1")
    table.look()
    table.send()
    table.restart("alice-1").act(changed(table.state, partners=THREE), GENESIS, table.release)
    with pytest.raises(MaskError, match="other partners of round 1 came than before"):
        table.mask("alice-1")
    # another vector under the same masks
    table.steps["alice-1"] = table.steps["alice-1"] + 0.01
    table.act("alice-1", table.state)
    with pytest.raises(MaskError, match="another vector is masked in round 1 already"):
        table.mask("alice-1")
    # both secrets of one site
    table.settle_sum()
    table.act("alice-1")
    before = table.waiting("alice-1")
    table.restart("alice-1")
    refuses(table, changed(table.state, arrived=THREE), "has answered already in round 1, about other sites")
    assert table.waiting("alice-1") == before
    # an update after that, by what was refused or by what was not
    with pytest.raises(Waits):
        table.mask("alice-1")
    table.act("alice-1")
    with pytest.raises(BundleError, match="goes on without this site"):
        table.mask("alice-1")


def refuses(table: Table, state: Any, why: str) -> None:
    before = table.waiting("alice-1"), table.place("alice-1").masks.read_bytes()
    with pytest.raises(MaskError, match=why) as caught:
        table.bobs["alice-1"].act(state, GENESIS, table.release)
    assert caught.value.exit_code == 3
    assert (table.waiting("alice-1"), table.place("alice-1").masks.read_bytes()) == before


class Killed(BaseException):
    """As a power cut."""


def test_a_bob_who_is_killed_at_any_step_says_the_same_again(
    tmp_path: Path, keys: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every durable write of alice-1, in each step of a round and of the one after."""
    steps = itertools.count()
    at = -1

    def killing(work: Any) -> Any:
        def one(*words: Any, **more: Any) -> Any:
            if next(steps) == at:
                raise Killed
            found = work(*words, **more)
            if next(steps) == at:
                raise Killed
            return found

        return one

    monkeypatch.setattr(bobs, "write_whole", killing(WRITE))
    monkeypatch.setattr(bobs, "seal_report", killing(SEAL))
    kills = 0
    for at in range(1000):
        steps = itertools.count()
        table, killed = Table(tmp_path / str(at), THREE, keys), False

        def surviving(work: Any, table: Table = table) -> Any:
            nonlocal kills, killed
            try:
                return work()
            except Killed:
                kills, killed = kills + 1, True
                table.restart("alice-1")
                return work()

        def said(table: Table = table, surviving: Any = surviving) -> None:
            surviving(lambda: table.act("alice-1"))
            assert len(table.waiting("alice-1")) <= 1
            table.take("alice-1")
            with monkeypatch.context() as others:
                others.setattr(bobs, "write_whole", WRITE)
                others.setattr(bobs, "seal_report", SEAL)
                table.say("alice-2", "alice-3")

        said()
        table.played.add(records.opening(table.state, table.now))
        table.played.release()
        said()
        table.played.add(records.partners(table.state, table.now))
        table.act("alice-1")
        masked = surviving(lambda table=table: (table.act("alice-1"), table.mask("alice-1"))[1])
        with monkeypatch.context() as others:
            others.setattr(bobs, "write_whole", WRITE)
            table.restart("alice-1")
            table.look()
            assert table.mask("alice-1") == masked
            table.send()
        table.played.add(records.closing(table.state, table.now))
        said()
        table.played.add(records.agreed(table.state, table.now))
        said()
        found, wanted = table.sum(), table.wanted(*THREE)
        assert found[1] == wanted[1] and np.abs(found[0] - wanted[0]).max() < 1e-7
        assert told(table.state) == {name: {"seed"} for name in THREE}
        table.close()
        assert records.opening(table.state, table.now), "all have given keys for the next round"
        if not killed:
            break
    assert kills == at > 10


WRITE, SEAL = write_whole, seal_report


def test_a_bob_whose_secrets_are_gone_takes_part_in_the_next_round(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, FOUR, keys)
    table.open()
    table.place("alice-1").masks.unlink()
    table.restart("alice-1")
    table.act("alice-1")
    [word] = table.waiting("alice-1")
    assert word.shares is ABSENT and isinstance(word.advert, Advert) and word.advert.round == 2
    table.place("alice-2").masks.write_bytes(b"{}")
    table.restart("alice-2")
    with pytest.raises(SettingsError, match="is damaged"):
        table.act("alice-2")


# peers


def test_peers_are_named_by_people(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    table = Table(tmp_path, THREE, keys)
    place = table.place("alice-1")
    path = {name: tmp_path / f"{name}.pub" for name in keys}
    for name, one in path.items():
        one.write_text(f"{keys[name].public.line} {name}@somewhere\n")
    assert peers.pinned(place) == {name: keys[name].public for name in THREE[1:]}
    assert peers.add(place, "alice-2", path["alice-2"]) == keys["alice-2"].public, "done again nothing changes"
    with pytest.raises(SettingsError, match="alice-2 is a peer with the key"):
        peers.add(place, "alice-2", path["mallory"])
    with pytest.raises(SettingsError, match="is the key of alice-3, who is a peer already"):
        peers.add(place, "alice-4", path["alice-3"])
    peers.add(place, "alice-2", path["mallory"], again=True)
    assert peers.pinned(place)["alice-2"] == keys["mallory"].public
    peers.remove(place, "alice-2")
    assert list(peers.pinned(place)) == ["alice-3"]
    with pytest.raises(SettingsError, match="alice-2 is no peer"):
        peers.remove(place, "alice-2")
    with pytest.raises(BundleError, match="site name"):
        peers.add(place, "../alice", path["alice-2"])
    place.key.write_text("there")
    with pytest.raises(SettingsError, match="is this site's own key"):
        peers.add(place, "alice-9", path["alice-1"])


def test_with_privacy_a_site_tells_what_it_spent_and_no_count() -> None:
    history = HISTORIES["memory-masks-private"]
    counted = [record.said for record in history if record.event == "counted"]
    assert len(counted) == 3
    for said in counted:
        assert isinstance(said, Counted) and isinstance(said.privacy, Spent)
        assert (said.examples, said.claim, said.privacy.rate) == (0, None, 0.25)
    replay = Replay()
    for record in history:
        if isinstance(record.said, Counted):
            told_all = dataclasses.replace(record.said, examples=100)
            with pytest.raises(DecisionError, match="under masks nobody tells"):
                replay.follow(dataclasses.replace(record, text=canonical({**record.fields, **told_all.fields()})))
        replay.follow(record)
    [closed] = [record.said for record in history if record.event == "round-accepted"]
    assert isinstance(closed, RoundAccepted) and closed.examples == 100 + 100 + 70, "a site of 130 counts as 100"


# groups


def test_groups_are_dealt_evenly_anew_in_each_round_and_never_below_three() -> None:
    rounds = [masking.dealt(SIX, 2, 1, number) for number in range(1, 20)]
    assert all(sorted(map(len, one)) == [3, 3] and sorted(itertools.chain(*one)) == list(SIX) for one in rounds)
    assert len(set(rounds)) > 3
    assert [len(masking.dealt(SIX[:count], 3, 1, 1)) for count in (3, 4, 5, 6)] == [1, 1, 1, 2]
    assert list(map(len, masking.dealt(tuple(f"site-{one}" for one in range(11)), 3, 1, 1))) == [4, 4, 3]


def test_each_group_is_summed_by_itself_and_one_that_is_short_is_left_out(
    tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    for place, short in enumerate(("nobody", "shares", "updates", "answers")):
        table = Table(tmp_path / str(place), SIX, keys, f"{POLICY},groups=2")
        table.open()
        assert table.state.round
        first, second = (one.roster.sites for one in table.state.round.groups)
        without = second[0]
        others = [name for name in SIX if name != without]
        table.settle_partners(*(others if short == "shares" else SIX))
        table.send(*(first if short == "shares" else others if short == "updates" else SIX))
        table.settle_sum(DEADLINE if short == "updates" else 0.0)
        table.say(*(others if short == "answers" else SIX))
        if short == "answers":
            table.later(DEADLINE / 4)
        assert records.due_now(table.state, table.now) is Due.CLOSE
        able = records.opened(table.state.round)
        assert [one.roster.sites for one in able] == [first] + [second] * (short == "nobody")
        for number, one in enumerate(able):
            found, wanted = table.sum(number), table.wanted(*one.roster.sites)
            assert found[1] == wanted[1] and np.abs(found[0] - wanted[0]).max() < 1e-7
        assert stored.from_value(stored.to_value(table.state), table.state.sequence, table.state.head) == table.state


def test_a_group_that_does_not_hold_is_left_out_and_named(tmp_path: Path) -> None:
    history = HISTORIES["memory-masks-groups"]
    closed = [record.said for record in history if isinstance(record.said, RoundClosed)]
    assert len(closed) == 2
    for said in closed:
        assert isinstance(said.groups, tuple) and len(said.groups) == 2
        poisoned, sound = sorted(said.groups, key=lambda one: "alice-2" not in one.sites)
        assert (poisoned.share, sound.share) == (0.0, 1.0) and said.examples == sound.examples
        assert poisoned.metrics and sound.metrics and poisoned.metrics["accuracy"] < sound.metrics["accuracy"]
    sums = closed[0].groups
    assert isinstance(sums, tuple)
    lies: dict[str, dict[str, Any]] = {
        "its groups are": {"groups": ABSENT},
        "its images are those of the groups": {"examples": 301},
        "groups is": {"groups": tuple(dataclasses.replace(one, share=one.share / 2) for one in sums)},
    }
    replay = Replay()
    for record in history:
        if record.said is closed[0]:
            for why, changes in lies.items():
                fields = {**record.fields, **dataclasses.replace(closed[0], **changes).fields()}
                fields = {name: one for name, one in fields.items() if changes.get(name) is not ABSENT}
                with pytest.raises(DecisionError, match=why):
                    replay.follow(dataclasses.replace(record, text=canonical(fields)))
        replay.follow(record)


def test_what_goes_with_masks() -> None:
    policy = read_policy("fedavg:seal=masks,cap=50,reach=0.5,server=momentum")
    assert policy.masked and policy.cap == 50 and policy.least == 3
    assert policy.of_sums.text == read_policy("fedavg:server=momentum").text and not policy.of_sums.masked
    assert read_policy(POLICY).values["reach"] == 1.0 and read_policy("fedavg:seal=masks").cap == 65536
    with pytest.raises(ValueError, match="groups of the policy fedavg belong to seal=masks"):
        read_policy("fedavg:groups=2")
    with pytest.raises(ValueError, match="belongs to another seal than none"):
        read_policy("fedavg:reach=2")
    with pytest.raises(ValueError, match="clip of the policy fedavg looks at each update, and seal=masks shows none"):
        read_policy("fedavg:seal=masks,clip=1")
    with pytest.raises(ValueError, match="has no option 'seal'"):
        read_policy("median:seal=masks")

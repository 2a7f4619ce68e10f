"""What a site agrees to, and what it allows whatever is agreed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedssh import manifest
from fedssh.alice import memory, news, terms
from fedssh.alice.cli import TrainSettings
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Older, Unready
from fedssh.alice.limits import Limits
from fedssh.alice.memory import Memory
from fedssh.alice.news import News
from fedssh.chain import Seen
from fedssh.errors import LedgerError, RollbackError, SettingsError, SignatureError, UntrustedError
from fedssh.keys import PrivateKey
from fedssh.rules.events import Local
from fedssh.rules.plan import read_plan
from fedssh.settings import load
from tests.harness.alice import PLAN, SPEC, Site
from tests.harness.releases import Coordinator, write_status


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, PrivateKey]) -> Site:
    return Site(tmp_path, keys["coordinator"])


@pytest.fixture
def other(keys: dict[str, PrivateKey]) -> Coordinator:
    """The same coordinator's next federation, with another plan and class names."""
    return Coordinator(keys["coordinator"], SPEC, {**PLAN, "batch_size": 2048}, class_names=["NORMAL", "PNEUMONIA"])


def write_invitation(folder: Path, by: Coordinator, **changes: Any) -> Path:
    path = folder / "invitation.json"
    fields = {**by.invitation(), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value != "absent"}))
    return path


# agreeing


def test_joining_pins_what_the_invitation_names(site: Site, tmp_path: Path) -> None:
    invited = terms.read_invitation(write_invitation(tmp_path, site.coordinator))
    assert terms.load_pin(site.state) is None
    pin = terms.join(site.state, invited, None)
    assert pin == terms.load_pin(site.state)
    assert (pin.genesis, pin.site, pin.record) == (site.coordinator.hash, "alice-1", None)
    offered = terms.read_terms(site.coordinator.genesis)
    assert terms.join(site.state, invited, offered).record == offered.line, "kept as soon as it is here"
    assert terms.join(site.state, invited, None).record == offered.line, "and joining again does not lose it"


def test_joining_is_refused_where_another_federation_is_offered_or_agreed(
    site: Site, tmp_path: Path, other: Coordinator
) -> None:
    invited = terms.read_invitation(write_invitation(tmp_path, site.coordinator))
    with pytest.raises(UntrustedError, match=r"bob brought the genesis .* of the federation 'test', this site has"):
        terms.join(site.state, invited, terms.read_terms(other.genesis))
    assert terms.load_pin(site.state) is None
    terms.join(site.state, invited, None)
    with pytest.raises(SettingsError, match=r"the invitation names the genesis .*, this site has agreed to"):
        terms.join(site.state, terms.read_invitation(write_invitation(tmp_path, other)), None)
    assert terms.load_pin(site.state) == invited


BAD_INVITATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "older": ({"genesis": "absent"}, "is an older invitation that does not name the federation's genesis"),
    "no hash": ({"genesis": "abc"}, "its genesis is not a SHA-256"),
    "an auditor's": ({"role": "auditor"}, "it is for the role 'auditor'"),
    "another format": ({"fedssh": 2}, "of format 1"),
    "no key": ({"coordinator": "ssh-ed25519 AAAA"}, "is not an invitation"),
    "no name": ({"site": "../x"}, "is not an invitation"),
}


@pytest.mark.parametrize("case", BAD_INVITATIONS)
def test_what_is_no_invitation_is_named(site: Site, tmp_path: Path, case: str) -> None:
    changes, words = BAD_INVITATIONS[case]
    with pytest.raises(SettingsError, match=words):
        terms.read_invitation(write_invitation(tmp_path, site.coordinator, **changes))
    path = tmp_path / "deep.json"
    path.write_text("[" * 60_000)
    with pytest.raises(SettingsError, match=r"deep.json is not an invitation"):
        terms.read_invitation(path)


def test_accepting_takes_the_beginning_of_the_hash_that_is_offered(site: Site, other: Coordinator) -> None:
    offered = terms.read_terms(other.genesis)
    for given, words in (
        (other.hash[:15], "is not the beginning of a genesis hash"),
        ("x" * 20, "is not the beginning of a genesis hash"),
        (site.coordinator.hash, "what is offered has the genesis"),
    ):
        with pytest.raises(SettingsError, match=words):
            terms.accept(site.state, given, offered)
    with pytest.raises(SettingsError, match="nothing is offered"):
        terms.accept(site.state, other.hash, None)
    assert terms.load_pin(site.state) is None
    terms.accept(site.state, other.hash[:16].upper(), offered)
    assert terms.load_pin(site.state) == terms.Pin(other.hash, other.key.public.line, None, offered.line)


def test_agreeing_anew_keeps_the_name_and_allows_going_back(site: Site, tmp_path: Path) -> None:
    terms.join(site.state, terms.read_invitation(write_invitation(tmp_path, site.coordinator)), None)
    memory.save(site.state, Memory("test", genesis=site.coordinator.hash, seen=Seen(9, "c" * 64)))
    terms.accept(site.state, site.coordinator.hash, terms.read_terms(site.coordinator.genesis))
    memory.forget_seen(site.state)
    pin = terms.load_pin(site.state)
    assert pin is not None and pin.site == "alice-1"
    assert memory.load(site.state).seen == Seen() and memory.load(site.state).genesis == site.coordinator.hash


def test_a_damaged_agreement_is_not_guessed(site: Site) -> None:
    for text in ("{", "[]", '{"genesis":"abc","coordinator":null,"site":null,"record":null}', '{"genesis":null}'):
        (site.state / "terms.json").write_text(text)
        with pytest.raises(SettingsError, match=r"terms.json is damaged"):
            terms.load_pin(site.state)


def test_a_state_of_before_is_read_and_goes_on(site: Site) -> None:
    """As `alice.json` was written before agreements were remembered."""
    text = '{"federation":"test","over":null,"passed":true,"sessions":3,"turns":null}'
    (site.state / "alice.json").write_text(text)
    known = memory.load(site.state)
    assert (known.federation, known.trained.sessions, known.genesis, known.seen) == ("test", 3, None, Seen())
    memory.save(site.state, known)
    assert memory.load(site.state) == known


NO_GENESIS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another event": ({"event": "release"}, LedgerError, "is not a genesis record"),
    "another number": ({"sequence": 2}, LedgerError, "is not a genesis record"),
    "another coordinator": ({"coordinator": "stranger"}, SignatureError, "signed by key"),
    "no coordinator": ({"coordinator": None}, LedgerError, "is not the ledger line of a genesis record"),
    "a spec that is not the architecture": ({"spec": {**SPEC, "width": 65536}}, LedgerError, "is not the hash of its"),
    "no spec": ({"spec": None}, LedgerError, "lacks the federation's name or its architecture"),
    "no name": ({"federation": 7}, LedgerError, "lacks the federation's name"),
    "no plan": ({"plan": None}, LedgerError, "lacks the training plan"),
    "a plan without an end": ({"plan": {**PLAN, "epochs": 10**400}}, UntrustedError, "'epochs' of the training plan"),
    "class names that are none": ({"class_names": "ab"}, LedgerError, "class names are not a list"),
    "a decision that is none": ({"decision": ["youden"]}, LedgerError, "decision is no object"),
    "site scores that are none": ({"site_scores": 1}, LedgerError, "site scores, or its evidence, are no text"),
    "evidence that is none": ({"evidence": []}, LedgerError, "evidence, are no text"),
}


@pytest.mark.parametrize("case", NO_GENESIS)
def test_only_a_genesis_record_can_be_agreed_to(site: Site, keys: dict[str, PrivateKey], case: str) -> None:
    changes, error, words = NO_GENESIS[case]
    fields: dict[str, Any] = {"sequence": 1, "event": "genesis", **site.coordinator.agreed, **changes}
    if fields["coordinator"] == "stranger":
        fields["coordinator"] = keys["stranger"].public.line
    with pytest.raises(error, match=words):
        terms.read_terms(site.coordinator.line(**fields))


def test_terms_are_shown_line_by_line_and_nothing_acts_on_the_terminal(site: Site, other: Coordinator) -> None:
    agreed, offered = (terms.rows(terms.read_terms(one.genesis), 9) for one in (site.coordinator, other))
    assert agreed["architecture"] == "mlp classes=2 depth=1 input=[2, 2, 1] width=2"
    assert (agreed["weights"], agreed["class names"], agreed["gate"]) == ("9", "none", "on, margin 0.01")
    assert list(terms.differences(agreed, offered)) == [
        ("genesis", site.coordinator.hash, other.hash),
        ("plan: batch_size", "8", "2048"),
        ("class names", "none", "NORMAL, PNEUMONIA"),
    ]
    evil = Coordinator(site.coordinator.key, SPEC, PLAN, federation="x\x1b[2J\n" + "y" * 9000, policy="\u202e")
    shown = terms.rows(terms.read_terms(evil.genesis))
    assert all(text.isprintable() and len(text) <= 201 for text in shown.values())


def test_what_a_line_has_no_room_for_differs_all_the_same(site: Site) -> None:
    def shown(last: str) -> dict[str, str]:
        spec = {**SPEC, "frozen": f"{'a' * 900},{last}"}
        record = Coordinator(site.coordinator.key, spec, PLAN, federation=f"{'x' * 300}{last}")
        return terms.rows(terms.read_terms(record.genesis))

    one, other = shown("age"), shown("patient")
    differing = {name for name, *_ in terms.differences(one, other)}
    assert differing == {"federation", "genesis", "architecture", "architecture: frozen"}
    assert one["architecture: input"] == "2, 2, 1"  # which 900 letters before it cannot hide


def command(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    program = "from fedssh.alice.cli import main; main()"
    folders = [f"--exchange={site.incoming.parent}", f"--state={site.state}"]
    return subprocess.run(
        [sys.executable, "-c", program, *words, *folders], capture_output=True, text=True, check=False, env=os.environ
    )


def test_the_commands_join_show_and_accept(site: Site, tmp_path: Path, other: Coordinator) -> None:
    """Also: nothing is trained before something is agreed to, which is said before any data is read."""
    done = command(site, "train", f"--data={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and "this site has agreed to no federation yet" in done.stderr
    assert "hint: `alice join INVITATION`" in done.stderr
    done = command(site, "join", str(write_invitation(tmp_path, site.coordinator)))
    assert done.stdout.startswith(f"alice-1 has agreed to the federation with the genesis {site.coordinator.hash}\n")
    (site.incoming / "genesis.json").write_bytes(other.genesis + b"\n")
    done = command(site, "accept", site.coordinator.hash[:20])
    assert done.returncode == 2 and "what is offered has the genesis" in done.stderr
    done = command(site, "accept", other.hash[:20])
    assert done.stdout == f"agreed to the federation test with the genesis {other.hash}\n"
    done = command(site, "status", "--json")
    assert json.loads(done.stdout)["agreed"] == other.hash


# limits


def test_the_defaults_let_usual_plans_through() -> None:
    for plan in (PLAN, {**PLAN, "optimizer": "sgd", "learning_rate": 0.5, "epochs": 100}, {**PLAN, "batch_size": 256}):
        Limits().check(SPEC, read_plan(plan))
    Limits().check_weights(62_378_344)


BEYOND: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "architecture": ({"architectures": ("cnn", "lenet")}, {}, "trains mlp, this site allows cnn, lenet"),
    "learning rate": ({}, {"learning_rate": 1e6}, r"a learning rate of 1,000,000\.0, .* at most 1\.0 \(--max-learning"),
    "large batches": (
        {},
        {"batch_size": 2048},
        r"a batch size of 2,048, this site allows at most 1,024 \(--max-batch-",
    ),
    "small batches": ({}, {"batch_size": 1}, r"a batch size of 1, this site allows at least 2 \(--min-batch-size\)"),
    "epochs": (
        {"max_epochs": 5},
        {"epochs": 6},
        r"a number of epochs of 6, this site allows at most 5 \(--max-epochs\)",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_a_plan_beyond_a_limit_names_it(case: str) -> None:
    limits, plan, words = BEYOND[case]
    with pytest.raises(UntrustedError, match=words):
        Limits(**limits).check(SPEC, read_plan({**PLAN, **plan}))


def test_a_network_beyond_a_limit_names_it() -> None:
    with pytest.raises(UntrustedError, match=r"a network of 270,638,579,713 weights, .* at most 100,000,000 \(--max-w"):
        Limits().check_weights(270_638_579_713)


def test_what_is_not_worth_shipping_or_tells_too_much_is_kept_back() -> None:
    limits, plan = Limits(min_accuracy=0.6), read_plan(PLAN)
    assert limits.keeps_back(plan, 100, 1, Local(0.5, 0.7)) is None
    assert limits.keeps_back(plan, 100, 1, Local(0.5, 0.5)) == "accuracy 0.5000 is below 0.6 (--min-accuracy)"
    whole = read_plan({**PLAN, "batch_size": 100})
    reason = limits.keeps_back(whole, 100, 1, Local(0.5, 0.7))
    assert reason == "1 of the 2 steps that a model takes here before it leaves (--min-steps)"
    assert limits.keeps_back(whole, 100, 2, Local(0.5, 0.7)) is None


def test_the_flags_are_the_limits() -> None:
    assert load(TrainSettings, "alice", {"data": "x"}, {}).limits == Limits()
    flags = {field.name: "3" for field in dataclasses.fields(Limits)} | {"data": "x"}
    limits = load(TrainSettings, "alice", flags | {"architectures": "cnn, lenet"}, {}).limits
    assert limits.architectures == ("cnn", "lenet")
    assert {value for name, value in dataclasses.asdict(limits).items() if name != "architectures"} == {3}


# what has come


def look(site: Site, known: Memory | None = None, limits: Limits | None = None, weights: int = 8) -> Any:
    return News(site.exchange, site.state, limits or Limits(), lambda spec: {"a": (weights,)}).look(known or Memory())


def test_nothing_is_looked_at_before_something_is_agreed_to(site: Site) -> None:
    site.release()
    with pytest.raises(SettingsError, match="this site has agreed to no federation yet"):
        look(site)


def test_a_release_waits_for_its_genesis_record_which_is_then_kept(site: Site) -> None:
    terms.save_pin(site.state, terms.Pin(site.coordinator.hash))
    site.release()
    genesis = site.incoming / "genesis.json"
    genesis.unlink()
    with pytest.raises(Unready, match="waiting for a release in"):
        look(site)
    genesis.write_bytes(site.coordinator.genesis + b"\n")
    agreed, received = look(site)
    assert (agreed.hash, received.release.sequence) == (site.coordinator.hash, 7)
    genesis.unlink()
    assert look(site)[1].release.sequence == 7


def test_another_federation_is_not_followed(site: Site, other: Coordinator) -> None:
    terms.save_pin(site.state, terms.Pin(site.coordinator.hash))
    site.release(coordinator=other)
    with pytest.raises(UntrustedError, match=r"bob brought the genesis .* of the federation 'test'") as caught:
        look(site)
    assert caught.value.hint is not None and "`alice accept HASH`" in caught.value.hint


def test_a_network_is_measured_before_anything_is_copied(site: Site) -> None:
    terms.save_pin(site.state, terms.Pin(site.coordinator.hash))
    site.release()
    with pytest.raises(UntrustedError, match=r"a network of 270,638,579,713 weights"):
        look(site, weights=270_638_579_713)
    with pytest.raises(UntrustedError, match="a learning rate"):
        look(site, limits=Limits(max_learning_rate=0.001))
    assert [path.name for path in site.state.iterdir()] == ["terms.json"]


def test_an_older_release_is_waited_out_and_then_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed Bob takes the newest away and brings it again; one who brings old ones only is not followed."""
    terms.save_pin(site.state, terms.Pin(site.coordinator.hash))
    site.release(7)
    known = Memory("test", genesis=site.coordinator.hash, seen=Seen(8, "c" * 64))
    mine = News(site.exchange, site.state, Limits(), lambda spec: {})
    with pytest.raises(Older):
        mine.look(known)
    monkeypatch.setattr(news, "OLDER_SECONDS", 0)
    with pytest.raises(RollbackError, match="older than 8, which this site has taken") as caught:
        mine.look(known)
    assert caught.value.hint is not None and "alice accept" in caught.value.hint
    assert mine.look(Memory("test", genesis="d" * 64, seen=Seen(8, "c" * 64))), "of another federation"


def test_the_end_is_believed_when_it_came_or_was_confirmed_since(site: Site) -> None:
    incoming = site.incoming
    site.release(7)
    mine = News(Exchange(incoming.parent), site.state, Limits(), lambda spec: {})
    assert mine.is_the_newest(8), "it came while she was there"
    assert not mine.is_the_newest(7)
    write_status(incoming, newest=7, confirmed="2026-01-31T12:00:00.123Z")
    assert not mine.is_the_newest(7), "yesterday"
    write_status(incoming, newest=5, confirmed=manifest.now())
    assert not mine.is_the_newest(7), "of another"
    time.sleep(0.002)
    write_status(incoming, newest=7, confirmed=manifest.now())
    assert mine.is_the_newest(7)


REVOKED = "charity.example:22 answered release: alice-1 is not enrolled with this key any more"


def test_a_revoked_site_need_not_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming, known = site.incoming, Memory("test", seen=Seen(7, "c" * 64))
    write_status(incoming, refused_since="2026-01-31T12:00:00.123Z", reason=REVOKED)
    os.utime(incoming / "status.json", (1, 1))
    mine = News(site.exchange, site.state, Limits(), lambda spec: {})
    assert mine.shut_out(known) is None, "what a former bob heard may be over"
    write_status(incoming, refused_since="2026-01-31T12:00:00.123Z", reason=REVOKED)
    text = "the coordinator does not let this site in any more, since 2026-01-31T12:00:00.123Z: "
    assert mine.shut_out(known) == text + REVOKED
    write_status(incoming, refused_since="2026-01-31T12:00:00.123Z", reason="the key is not let in")
    assert mine.shut_out(known) is None, "for ten minutes"
    monkeypatch.setattr(news, "REFUSED_SECONDS", 0)
    assert mine.shut_out(Memory()) is None, "who never had a release may be enrolled soon"
    assert mine.shut_out(known) == text + "the key is not let in"
    write_status(incoming)
    assert mine.shut_out(known) is None

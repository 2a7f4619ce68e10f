"""What Alice believes of what Bob lays out: only what the coordinator signed and the site has agreed to."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedssh import manifest
from fedssh.alice.exchange import Exchange
from fedssh.alice.incoming import Older, Unready, read_offer, read_status
from fedssh.chain import Seen
from fedssh.errors import (
    AgentError,
    BundleError,
    RollbackError,
    SettingsError,
    SignatureError,
    UntrustedError,
    WeightsError,
)
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from tests.harness.alice import PLAN, SPEC, Site
from tests.harness.releases import Coordinator, write_status


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, PrivateKey]) -> Site:
    return Site(tmp_path, keys["coordinator"])


def rewrite(note: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(note.read_bytes())
    change(fields)
    note.write_bytes(canonical(fields))


def test_a_signed_release_is_taken_with_a_copy_of_its_model(site: Site) -> None:
    assert site.newest() is None
    note = site.release()
    received = site.newest()
    assert received is not None and received.site == "alice-1" and received.release.sequence == 7
    laid_out = note.with_suffix(".safetensors").read_bytes()
    note.with_suffix(".safetensors").write_bytes(b"changed a moment later")
    assert received.model.parent == site.state and received.model.read_bytes() == laid_out
    assert [path.name for path in site.state.iterdir()] == ["release.safetensors"]


def claim(fields: dict[str, Any], **changes: Any) -> None:
    fields["manifest"].update(changes)


# What somebody who has Bob's room may change in the note; he has no key of the coordinator's.
BY_BOB: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another plan": (lambda note: claim(note, plan={**PLAN, "batch_size": 2048}), "does not match the signed bytes"),
    "another architecture": (lambda note: claim(note, architecture="c" * 64), "does not match the signed bytes"),
    "an accuracy of 10^400": (
        lambda note: claim(note, metrics={"loss": 0.1, "accuracy": 10**400}),
        "does not match the signed bytes",
    ),
    "finished": (
        lambda note: claim(note, federation={**note["manifest"]["federation"], "state": "finished"}),
        "does not match the signed bytes",
    ),
    "no signature": (lambda note: note.pop("signature"), "is not the note of a release"),
    "signature of nothing": (lambda note: note.update(signature=""), "there is no signature"),
    "signature a number": (lambda note: note.update(signature=7), "is not the note of a release"),
    "no record": (lambda note: note.pop("record"), "is not the note of a release"),
    "record of nothing": (lambda note: note.update(record="{}"), "is not a ledger line"),
    "another site": (lambda note: note.update(site="alice-2"), "is for the site alice-2, this one is alice-1"),
    "no site": (lambda note: note.update(site="../x"), "'site name' is '../x'"),
    "manifest a list": (lambda note: note.update(manifest=[]), "is not canonical JSON"),
    "manifest empty": (lambda note: note.update(manifest={}), "of kind a NoneType"),
}


@pytest.mark.parametrize("case", BY_BOB)
def test_what_bob_changes_is_refused(site: Site, case: str) -> None:
    change, words = BY_BOB[case]
    rewrite(site.release(), change)
    with pytest.raises(UntrustedError, match=words):
        site.newest()
    assert not list(site.state.iterdir()), "nothing was copied"


OTHERS = {"loss": 0.5, "accuracy": 1.5}
ROUND: dict[str, Any] = {"schedule": "rounds", "turns": 1, "round": None, "last": None}
# What the coordinator signs herself, although it is not what was agreed: the changes of a manifest.
BY_COORDINATOR: dict[str, tuple[dict[str, Any], str]] = {
    "another plan": ({"plan": {**PLAN, "batch_size": 2048}}, "'plan' of release 7 is not what record 1 says"),
    "another learning rate": ({"plan": {**PLAN, "learning_rate": 1e6}}, "'plan' of release 7 is not what record 1"),
    "another architecture": ({"architecture": "c" * 64}, "'architecture' of release 7 is not what record 1 says"),
    "impossible scores": ({"metrics": OTHERS}, "the score 'accuracy' of release 7 is 1.5, which no model can have"),
    "another policy": ({"federation": {"policy": "fedavg"}}, "'policy' of the federation of release 7 is 'fedavg'"),
    "another federation": ({"federation": {"name": "other"}}, "'name' of the federation of release 7 is 'other'"),
    "a sender": ({"sender": "alice-2"}, "is of alice-2, expected charity"),
    "no score": ({"metrics": {"loss": 0.5}}, "metrics lacks 'accuracy'"),
    "weights of another architecture": ({"spec": {**SPEC, "width": 3}}, "has another architecture than release 7"),
}


@pytest.mark.parametrize("case", BY_COORDINATOR)
def test_what_the_coordinator_signs_is_held_against_what_was_agreed(site: Site, case: str) -> None:
    changes, words = BY_COORDINATOR[case]
    site.release(**changes)
    with pytest.raises(UntrustedError, match=words):
        site.newest()


@pytest.mark.parametrize("lacks", ["turns", "round"])
def test_rounds_that_are_not_told_in_full_are_refused(site: Site, lacks: str) -> None:
    site.coordinator = Coordinator(site.coordinator.key, SPEC, PLAN, schedule="rounds")
    site.release(federation=ROUND)
    assert site.newest() is not None
    site.release(federation={name: value for name, value in ROUND.items() if name != lacks})
    with pytest.raises(BundleError, match="lacks 'turns' or 'round'"):
        site.newest()


def test_another_coordinator_is_not_believed(site: Site, keys: dict[str, PrivateKey]) -> None:
    site.release(coordinator=Coordinator(keys["stranger"], SPEC, PLAN))
    with pytest.raises(SignatureError, match=r"signed by key SHA256:.*, expected SHA256:"):
        site.newest()


def test_there_is_no_way_back_and_none_aside(site: Site) -> None:
    """A Bob who lays out again what was signed once."""
    site.release(7)
    received = site.newest()
    assert received is not None
    seen = Seen(7, received.release.head)
    assert site.newest(seen) is not None, "the same again is no way back"
    with pytest.raises(RollbackError, match=r"has head .*, this site has seen it with cccc"):
        site.newest(Seen(7, "c" * 64))
    with pytest.raises(Older, match=r"release 7 lies in .*, older than 8, which this site has taken"):
        site.newest(Seen(8, "c" * 64))


def test_a_release_stands_under_its_own_number(site: Site) -> None:
    """A Bob who has an old release look like the newest."""
    note = site.release(7)
    for path in (note, note.with_suffix(".safetensors")):
        path.rename(path.with_stem("00000009"))
    with pytest.raises(BundleError, match="holds release 7"):
        site.newest()


def test_what_an_older_bob_laid_down_is_waited_out(site: Site) -> None:
    note = site.release()
    fields = json.loads(note.read_bytes())
    note.write_bytes(canonical({name: fields[name] for name in ("site", "manifest")}))
    with pytest.raises(Unready, match="carries no signature, as an older bob laid it down"):
        site.newest()


def test_a_model_that_is_not_the_one_named_is_refused(site: Site) -> None:
    model = site.release().with_suffix(".safetensors")
    good = model.read_bytes()
    for bad in (good[:-1] + b"x", good[:-1], good + b"x", b""):
        model.write_bytes(bad)
        with pytest.raises(WeightsError, match="is not the model that release 7 names"):
            site.newest()
    assert not list(site.state.iterdir())


# what stands where a file should


def deep(path: Path) -> None:
    path.write_text('{"site":' * 100_000)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(12 << 30)


def listening(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have few letters only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


STRANGE: dict[str, Callable[[Path], object]] = {
    "a link to a secret": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": listening,
    "a sparse file of 12 GiB": sparse,
    "nothing in it": Path.touch,
    "an empty object": lambda path: path.write_text("{}"),
    "a list": lambda path: path.write_text("[]"),
    "deep JSON": deep,
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a number of 5,000 digits": lambda path: path.write_text(f'{{"site":1{"0" * 5000}}}'),
    "half of a letter": lambda path: path.write_text('{"site":"\\ud800","manifest":{},"signature":"","record":""}'),
}
LOOKS: dict[str, tuple[str, Callable[[Site], object]]] = {
    "a note": ("00000007.json", Site.newest),
    "a model": ("00000007.safetensors", Site.newest),
    "the genesis": ("genesis.json", lambda site: read_offer(site.incoming)),
    "the status": ("status.json", lambda site: read_status(site.incoming)),
}


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("file", LOOKS)
def test_whatever_stands_for_a_file_is_one_error_at_once(site: Site, file: str, what: str) -> None:
    name, look = LOOKS[file]
    site.release()
    path = site.incoming / name
    path.unlink(missing_ok=True)
    STRANGE[what](path)
    with pytest.raises(AgentError) as caught:
        look(site)
    assert isinstance(caught.value, UntrustedError) and len(str(caught.value)) < 400
    assert not list(site.state.iterdir()), "nothing was copied"


@pytest.mark.parametrize("name", ["incoming", "outgoing"])
def test_a_folder_that_leads_elsewhere_is_not_entered(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "orphan.safetensors").write_bytes(b"somebody's")
    (elsewhere / ".x.0a0b0c0d.part").write_bytes(b"somebody's")
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    (exchange / name).symlink_to(elsewhere)
    with pytest.raises(SettingsError, match=f"{name} is a link"):
        Exchange(exchange).tidy()
    (exchange / name).unlink()
    (exchange / name).write_bytes(b"")
    with pytest.raises(SettingsError, match=f"{name} is no folder"):
        Exchange(exchange).tidy()
    assert len(list(elsewhere.iterdir())) == 2


def test_a_folder_that_becomes_a_link_is_noticed(site: Site, tmp_path: Path) -> None:
    site.release()
    site.incoming.rename(tmp_path / "moved")
    site.incoming.symlink_to(tmp_path / "moved")
    with pytest.raises(SettingsError, match="incoming is a link"):
        site.newest()
    outgoing = site.exchange.outgoing
    outgoing.rmdir()
    outgoing.symlink_to(site.state)
    report = manifest.SessionOver(manifest.new_id(), 7, 1, 1, 0, 9, None, manifest.now(), manifest.now())
    with pytest.raises(SettingsError, match="outgoing is a link"):
        site.exchange.report(report)
    assert not list(site.state.iterdir())


def test_names_that_bob_never_gives_are_no_releases(site: Site) -> None:
    for name in ("7.json", "٠٠٠٠٠٠٠٨.json", "000000008.json", "-0000008.json", "9" * 200 + ".txt"):
        (site.incoming / name).write_text("{}")
    assert site.exchange.newest_sequence() is None
    site.release(7)
    assert site.exchange.newest_sequence() == 7


def test_strange_files_beside_waiting_checkpoints_do_not_matter(site: Site) -> None:
    outgoing = site.exchange.outgoing
    for number, make in enumerate(STRANGE.values()):
        (outgoing / f"{number:02}.safetensors").write_bytes(b"")
        make(outgoing / f"{number:02}.json")
    site.exchange.prune(session=1)
    assert len(site.exchange.waiting()) == 8
    site.exchange.tidy()


# how Bob stands with the door


def test_the_status_is_bobs_word(site: Site) -> None:
    assert read_status(site.incoming).confirmed is None
    write_status(site.incoming, newest=7, confirmed="2026-01-31T12:00:00.123Z")
    status = read_status(site.incoming)
    assert (status.newest, status.confirmed, status.refused_since, status.reason) == (
        7, "2026-01-31T12:00:00.123Z", None, None,
    )  # fmt: skip
    for bad in ({"newest": "7"}, {"newest": True}, {"confirmed": "yesterday"}, {"reason": ["x"]}):
        write_status(site.incoming, **bad)
        with pytest.raises(BundleError, match="is not bob's status"):
            read_status(site.incoming)


def test_reading_incoming_loads_no_keras() -> None:
    import subprocess

    code = "import sys, fedssh.alice.incoming, fedssh.alice.terms, fedssh.alice.limits; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""What happened in each of the folders; see make.py. The docstrings say what is special: they stand in README.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from fedssh.charity import enrol, operate

from .room import SITES, Room, dead, endless, nan, same, scaled, worse

EVER = 10**9  # seconds: the deadline of every round, so that it is as far away whenever somebody goes on with one
FEDAVG = f"fedavg:deadline={EVER}"
Scene = Callable[[Room], None]
SCENES: dict[str, tuple[Scene, int, dict[str, Any], str]] = {}


def scene(name: str, sites: int = 3, **terms: Any) -> Callable[[Scene], Scene]:
    """A folder to make: the function's docstring says what is special about it."""

    def keep(play_it: Scene) -> Scene:
        SCENES[name] = play_it, sites, terms, " ".join((play_it.__doc__ or "").split())
        return play_it

    return keep


@scene("best-free")
def best_free(room: Room) -> None:
    """what a candidate is refused for, what is invalid, and a report without metrics; an auditor"""
    room.add("auditor-1", role="auditor")
    room.send("alice-1")
    room.report("alice-1")
    room.send("alice-2", worse)
    room.report("alice-2", checkpoints=0)
    room.work()
    for change in (same, nan, endless, scaled(2.0**20), scaled(32)):
        room.send("alice-2", change, session=2)
    room.send("alice-3", signer="alice-2")
    shutil.copy2(room.newest("alice-3"), room.arrive("alice-1"))
    room.arrive("alice-3").write_bytes(b"no bundle")
    room.work()


@scene("best-steered")
def steered(room: Room) -> None:
    """a site revoked and enrolled again with a new key; rollback; finished and reopened by the operator"""
    room.round(["alice-1"])
    room.send("alice-3")
    room.report("alice-3")
    enrol.revoke(room.vault, "alice-3", "key lost")
    room.work()
    room.add("alice-3", "alice-9")
    room.work()
    room.round(["alice-3"], signer="alice-9")
    operate.roll_back(room.vault, 1, "mislabelled images")
    room.round(["alice-1"], session=2)
    operate.finish(room.vault, "good enough")
    room.work()
    operate.reopen(room.vault, 4, "not yet")
    room.work()


@scene("best-named", policy="best")
def named(room: Room) -> None:
    """names given to models, moved, taken away, kept through a rollback; models scored on a test split"""
    room.round(["alice-1"])
    first = room.vault.state.current.of
    operate.tag(room.vault, 1, "v0", "operator-1", "where all began")
    operate.tag(room.vault, first, "champion", "operator-1", "better on the wards")
    room.round(["alice-3"])
    second = room.vault.state.current.of
    assert second != first
    operate.tag(room.vault, second, "champion", "operator-2", "a note is text: \x1b[2J </script>")
    operate.tag(room.vault, second, "v1.0_rc-1", "operator-2")
    curve = [[0.9, 0.0, 0.5], [0.4, 0.25, 0.75], [0.1, 1.0, 1.0]]
    for number, points in ((first, None), (second, None), (second, curve)):
        model = room.vault.ledger.record(number).fields["model"]["sha256"]
        found = room.judge.ask({"model": str(room.folders.model(model))})["metrics"]
        operate.tell_tested(room.vault, number, 60, found, points)
    operate.roll_back(room.vault, first, "second thoughts")
    operate.tag(room.vault, room.vault.state.current.of, "stable", "operator-1")
    operate.untag(room.vault, "v0", "operator-1", "nobody uses it")
    operate.untag(room.vault, "stable", "operator-1")
    room.work()


@scene("best-relay", schedule="relay", sessions=2)
def best_relay(room: Room) -> None:
    """in the middle of a turn; another site's turn used, a turn that is over or was an earlier one; turn passed"""
    first = room.release
    room.send("alice-2")
    room.report("alice-2")
    room.send("alice-1")
    room.report("alice-1")
    room.send("alice-1", builds_on=first, epoch=2)
    room.work()
    second = room.release
    room.silence()
    room.send("alice-2", builds_on=second)
    room.work()
    enrol.revoke(room.vault, "alice-3", "gone")
    room.work()
    room.send("alice-1", builds_on=first, session=2)
    room.send("alice-1", session=2)
    room.work()


@scene("polyak-free", policy="polyak:0.25")
def polyak_free(room: Room) -> None:
    """a candidate that pulls the model below the best so far; one given up after three tries"""
    room.round(SITES[:3])
    room.round(["alice-1"], worse, session=2)
    room.send("alice-2", session=2, claimed=True)
    room.tried("alice-2", 3)
    room.recover()
    room.round(["alice-2"], session=3)


@scene("polyak-relay", sites=2, policy="polyak:0.5", schedule="relay", sessions=1)
def polyak_relay(room: Room) -> None:
    """finished by its sessions; it is nobody's turn; reopened for another session each"""
    first = room.release
    for site in SITES[:2]:
        room.send(site)
        room.report(site)
        room.work()
    room.send("alice-1")
    room.send("alice-1", builds_on=first)
    room.work()
    operate.reopen(room.vault, 2, "once more")
    room.work()


@scene("merge-free", policy="merge:steps=3")
def merge_free(room: Room) -> None:
    """stale candidates"""
    old = room.release
    room.round(SITES[:3])
    room.round(["alice-1", "alice-2"], builds_on=old, session=2)
    room.round(["alice-3"], worse, session=2)


@scene("merge-relay", policy="merge", schedule="relay")
def merge_relay(room: Room) -> None:
    """killed in the middle of a turn: of it one bundle is claimed and was tried, others wait; a snapshot before that"""
    room.send("alice-1")
    room.report("alice-1")
    room.work()
    room.send("alice-2")
    room.work()
    room.grown_old()
    room.send("alice-2", session=1, epoch=2)
    room.report("alice-3")
    room.work()
    room.send("alice-2", epoch=1, claimed=True)
    room.tried("alice-2", 1)
    room.report("alice-2")
    room.send("alice-1")


@scene("polyak-off", policy="polyak:0.5", gate="off", submissions_per_hour=0, invalid_per_hour=0)
def polyak_off(room: Room) -> None:
    """a worse model becomes current; one that nothing can be trained from does not; no rates"""
    room.round(["alice-1"])
    room.round(["alice-2"], worse)
    room.round(["alice-3"], dead)


@scene("merge-ladder", policy="merge:2", gate="ladder", margin=0.05)
def merge_ladder(room: Room) -> None:
    """scores in steps; of refused ones none is told"""
    room.round(["alice-1", "alice-2"])
    room.round(["alice-3"], worse)


@scene("rates", submissions_per_hour=6, invalid_per_hour=2)
def rates(room: Room) -> None:
    """a site above its rate: garbage dropped, recorded, and counted again; of another one a bundle is held"""
    for number in range(5):
        room.arrive("alice-2").write_bytes(b"garbage %d" % number)
    room.work()
    room.arrive("alice-2").write_bytes(b"more garbage")
    room.report("alice-3")
    for epoch in range(7):
        room.send("alice-1", same, epoch=epoch + 1)
    room.work()


@scene("fedavg", policy=f"fedavg:fraction=0.67,minimum=1,deadline={EVER},cap=40")
def fedavg(room: Room) -> None:
    """refused in a round: not selected, twice, late; extended at its deadline, then closed without a straggler"""
    assert room.vault.state.round is not None
    old, chosen = room.release, list(room.vault.state.round.sites)
    other = next(site for site in SITES if site not in chosen)
    room.round([other, chosen[0], chosen[0]])
    room.overdue(EVER)
    room.round([other])
    room.overdue(EVER)
    room.round([chosen[1]], builds_on=old)


@scene("fedavg-momentum", policy=f"{FEDAVG},server=momentum,momentum=0.2", margin=0.1)
def momentum(room: Room) -> None:
    """killed in the middle of a round: an update is counted, one claimed, one waiting; a server optimizer's state"""
    room.round(SITES[:3])
    room.round(SITES[:3], session=2)
    room.round(["alice-1"], session=3)
    room.send("alice-2", session=3, claimed=True)
    room.send("alice-3", session=3)


@scene("fedavg-adam", sites=2, policy=f"{FEDAVG},server=adam,rate=0.02")
def adam(room: Room) -> None:
    """a rollback in the middle of a round, to a model without a server optimizer's state"""
    room.round(SITES[:2])
    old = room.release
    room.round(["alice-1"], session=2)
    operate.roll_back(room.vault, 1, "mislabelled images")
    room.round(["alice-2"], builds_on=old, session=2)
    room.round(["alice-1"], session=3)


@scene("fedavg-yogi", sites=2, policy=f"{FEDAVG},server=yogi,rate=0.02", sessions=2)
def yogi(room: Room) -> None:
    """finished by its rounds, an update after that; reopened; finished in the middle of a round"""
    room.round(SITES[:2])
    old = room.release
    room.round(SITES[:2], session=2)
    room.round(["alice-1"], builds_on=old, session=2, epoch=2)
    operate.reopen(room.vault, None, "not yet")
    room.work()
    room.round(["alice-1"], session=3)
    operate.finish(room.vault, "good enough")
    room.work()


@scene("fedavg-off", sites=2, policy=FEDAVG, gate="off", proximal=0.1)
def fedavg_off(room: Room) -> None:
    """rounds whose result is worse, cannot be scored, or cannot be gone on from; a snapshot in the middle of a round"""
    for number, change in enumerate((worse, endless, scaled(2.0**20)), 1):
        room.round(SITES[:2], change, session=number)
    room.round(["alice-1"], session=4)
    room.grown_old()
    room.round(["alice-2"], session=4)
    room.round(["alice-2"], session=5)


@scene("fedavg-ladder", policy=f"{FEDAVG},fraction=0.5", gate="ladder", margin=0.05)
def fedavg_ladder(room: Room) -> None:
    """rounds of two of three sites; one is refused"""
    for number, change in enumerate((None, worse, None), 1):
        assert room.vault.state.round is not None
        room.round(list(room.vault.state.round.sites), change, session=number)


@scene("median", policy=f"median:deadline={EVER}")
def median(room: Room) -> None:
    """a round that two sites cannot add to, for what they sent is invalid, or training diverged; too few, refused"""
    room.send("alice-1", nan)
    room.report("alice-2", checkpoints=0)
    room.round(["alice-3"])
    room.round(SITES[:3], session=2)
    room.round(SITES[:3], worse, session=3)


@scene("trimmed", sites=4, policy=f"trimmed:1,deadline={EVER}")
def trimmed(room: Room) -> None:
    """a site revoked after its update was counted, and enrolled again with a new key in the same round"""
    room.round(["alice-1", "alice-2"])
    enrol.revoke(room.vault, "alice-1", "a new key")
    room.add("alice-1", "alice-9")
    room.work()
    room.round(["alice-1"], signer="alice-9")
    room.round(["alice-3", "alice-4"])
    room.round(["alice-1"], signer="alice-9", session=2)


@scene("krum", sites=5, policy=f"krum:1,deadline={EVER},clip=5")
def krum(room: Room) -> None:
    """one update of five is far away"""
    room.send("alice-5", scaled(8))
    room.round(SITES[:4])


@scene("multi-krum", sites=5, policy=f"multi-krum:1,deadline={EVER},minimum=1")
def multi_krum(room: Room) -> None:
    """one update of five is far away, the next round is open with two"""
    room.send("alice-5", worse)
    room.round(SITES[:4])
    room.round(SITES[:2], session=2)

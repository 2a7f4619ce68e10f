"""Conducting rounds: open one, extend it, close it, each when it is due, and bring what it made into the vault.

A round closes in steps that may all be done again after a crash:

    1  with nothing locked   the judge combines the updates in vault/updates, scores the result, and looks whether sites
                             can go on from it
    2  under the lock        if the round is still the same: store the model, record, and let go of the updates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedssh.charity.judge.client import JudgeError, server_files
from fedssh.charity.settle import first_model
from fedssh.charity.vault import Vault
from fedssh.files import move_whole, sha256_file
from fedssh.rules import records
from fedssh.rules.events import Record
from fedssh.rules.federation import Federation
from fedssh.rules.gate import Decision, gone_on
from fedssh.rules.rounds import Due, Round, due, seconds_left


class Combines(Protocol):
    """What closing a round needs of a judge."""

    def combine(
        self, policy: str, base: Path, updates: Sequence[tuple[Path, int]], server: Sequence[Path], out: Path
    ) -> dict[str, Any]: ...

    def check(self, model: Path, current: Path, first: Path, plan: dict[str, Any]) -> dict[str, Any]: ...


def conduct(vault: Vault, judge: Combines, now: float) -> Record | None:
    """Do what the rounds are due for next; None when that is nothing.

    Args:
        now: In seconds since 1970.

    Raises:
        OSError: The disk is full or read-only. Nothing is decided; try again later.
        JudgeDownError: The judge does not start. Nothing is decided; try again later.
    """
    state = vault.refresh()
    if not state.policy.rounds or state.finished:
        return None
    if state.round is None:
        return _open(vault)
    what = due(state.policy, state.round, [site.name for site in state.sites], now)
    if what is Due.EXTEND:
        return _extend(vault, now)
    return _close(vault, judge, state, state.round) if what is Due.CLOSE else None


def seconds_to_wait(state: Federation, now: float) -> float | None:
    """Seconds until the open round has to be looked at though nothing arrives; None when there is no such time."""
    if state.round is None:
        return None
    left = seconds_left(state.policy, state.round, now)
    return left if left > 0 else None


def _open(vault: Vault) -> Record | None:
    with vault.locked() as state:
        fields = records.opening(state)
        return None if fields is None else vault.append("round-opened", **fields)


def _extend(vault: Vault, now: float) -> Record | None:
    with vault.locked() as state:
        fields = records.extension(state, now)
        return None if fields is None else vault.append("round-extended", **fields)


@dataclass(frozen=True)
class _Result:
    """What a round came to."""

    decision: Decision
    shares: list[float] | None
    out: Path
    server: tuple[Path, ...] = ()


def _close(vault: Vault, judge: Combines, before: Federation, current: Round) -> Record | None:
    result = _combined(vault, judge, before, current)
    with vault.locked() as state:
        if state.round != current or state.current.of != before.current.of:
            return None  # somebody was revoked or the model rolled back meanwhile; the next call looks again
        fields = records.closing(state, current, result.decision, result.shares)
        if result.decision.accept:
            model = _blob(result.out)
            server = [_blob(path) for path in result.server]
            vault.keep(result.out, model["sha256"])
            for path, blob in zip(result.server, server, strict=True):
                move_whole(path, vault.folders.server_state(blob["sha256"]))
            record = vault.append("round-accepted", **fields, model=model, state=server)
        else:
            record = vault.append("round-refused", **fields)
        vault.sweep_rounds()
    for path in (result.out, *server_files(result.out)):
        path.unlink(missing_ok=True)
    return record


def _combined(vault: Vault, judge: Combines, state: Federation, current: Round) -> _Result:
    folders = vault.folders
    out = folders.opened / "round.safetensors"
    updates = [(folders.update(update.model["sha256"]), update.examples) for update in records.in_order(current)]
    server = [folders.server_state(blob["sha256"]) for blob in state.current.server]
    if decision := records.too_few(state, current):
        return _Result(decision, None, out)
    base = folders.model(state.current.model["sha256"])
    try:
        answer = judge.combine(state.policy.text, base, updates, server, out)
        decision = records.gated(state, len(updates), answer["metrics"])
        if decision.accept:
            decision = gone_on(decision, **judge.check(out, base, first_model(vault, state), state.genesis["plan"]))
    except JudgeError as error:
        return _Result(Decision(False, str(error)), None, out)
    return _Result(decision, answer["shares"], out, tuple(server_files(out)[: answer["server"]]))


def _blob(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "size": path.stat().st_size}

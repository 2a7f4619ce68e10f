"""What Alice tells people: the text of each event. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fedssh.alice.session import in_round
from fedssh.manifest import Release
from fedssh.rules.events import Local
from fedssh.rules.membership import Attacked
from fedssh.rules.plan import Plan
from fedssh.rules.standing import LastRound, Standing

FEW = 4  # names in one line


def waiting(standing: Standing, site: str) -> str:
    """What a site waits for that may not train now."""
    if standing.schedule != "rounds":
        turn = standing.turn
        return "waiting until our turn is passed on" if turn == site else f"waiting for our turn; it is {turn}'s"
    now = standing.open_round
    if now is None:
        return "waiting for the next round"
    others = names([name for name in now.sites if name != site])
    last = now.of is not None and now.number >= now.of
    what = f"the end of round {now.number}, the last" if last else f"round {now.number + 1}"
    if not in_round(standing, site):
        return f"waiting for {what}; {others} train{'s' if len(now.sites) == 1 else ''} in this one"
    with_us = f", {others} too" if others else ""
    return f"waiting for {what}; in this one we have trained{with_us}"


def last_round(last: LastRound) -> str:
    """What became of the last round."""
    return f"round {last.round} was {last.event.removeprefix('round-')}: {last.reason}"


def audited(found: Attacked) -> str:
    """How well a model tells who its members are."""
    auc = found.auc
    return (
        f"an attack by loss tells {found.members:,} training images from {found.non_members:,} validation images with "
        f"an AUC of {auc.value:.4f} ({auc.low:.2f} to {auc.high:.2f}; 0.5 is guessing)"
    )


def names(sites: Sequence[str]) -> str:
    """Some sites, in words, and how many more there are."""
    shown = [*sites[:FEW], f"{len(sites) - FEW} more"] if len(sites) > FEW + 1 else list(sites)
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def release(manifest: Release, score: Local, examples: int) -> str:
    """What a release scores, there and here."""
    there = manifest.metrics
    return (
        f"release {manifest.sequence} scores loss {there['loss']:.4f}, {score.measure} {there[score.measure]:.4f} "
        f"at the coordinator; here {scored(score)} on {examples} images"
    )


def session(number: int, agreed: int | None, sequence: int, examples: int, plan: Plan) -> str:
    """How a session begins."""
    most = f"at most {epochs(plan.epochs)}, patience {plan.patience}"
    ends = epochs(plan.epochs) if plan.publish == "session" else most
    of = f" of {agreed}" if agreed else ""
    return f"session {number}{of} begins from release {sequence}: {examples:,} images, {ends}"


def over(standing: Standing, sessions_trained: int) -> str:
    """Why nothing more is trained."""
    if standing.finished:
        return f"the federation is finished; {trained_here(sessions_trained)}"
    return f"all {sessions(sessions_trained)} trained"


def trained_here(sessions_trained: int) -> str:
    """`3 sessions trained here`."""
    return f"{sessions(sessions_trained)} trained here"


def scored(score: Local) -> str:
    """Loss and accuracy, or mean absolute error."""
    return f"loss {score.loss:.4f}, {score.measure} {score.value:.4f}"


def sessions(number: int) -> str:
    """`3 sessions`."""
    return f"{number} session{'' if number == 1 else 's'}"


def epochs(number: int) -> str:
    """`3 epochs`."""
    return f"{number} epoch{'' if number == 1 else 's'}"


def checkpoints(number: int) -> str:
    """`3 checkpoints`."""
    return f"{number} checkpoint{'' if number == 1 else 's'}"

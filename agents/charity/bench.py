"""The bench of `rules.coordinator` at Charity: questions to the judge process, models in the vault's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedssh.charity.folders import Folders
from fedssh.charity.judge.protocol import server_files
from fedssh.charity.opening import on, question
from fedssh.errors import JudgeError
from fedssh.rules.coordinator import Combined, Joined, of_groups
from fedssh.rules.events import Blob, Metrics, Work
from fedssh.rules.federation import Federation, Slot
from fedssh.rules.masking import Masking
from fedssh.rules.privacy import Charge
from fedssh.rules.records import Sent, evidence_agreed, opened
from fedssh.rules.rounds import Update

if TYPE_CHECKING:
    from fedssh.rules.soundness import Finding


class Judge(Protocol):
    """What the bench needs of a judge, see `judge.client`."""

    def score(self, model: Path, against: Path | None = None) -> dict[str, Any]:
        """What a model file scores on the judge's images: metrics by name.

        Args:
            against: A stored model that it is paired with, image by image.
        """
        ...

    def mix(
        self,
        current: Path,
        candidate: Path,
        shares: Sequence[float],
        out: Path | None = None,
        base: Path | None = None,
        others: Sequence[tuple[Path, Path]] = (),
        *,
        paired: bool = False,
    ) -> list[dict[str, Any]]:
        """Metrics of mixes, one per share of the candidate, in 0..1; with `out` the one mix is written, not scored.

        Args:
            base: Adds shares of the difference between the candidate and this to the current model instead.
            others: Other candidates with their bases, the mean of whose differences and the candidate's is added.
            paired: Each is paired with the current model, image by image.
        """
        ...

    def combine(
        self,
        policy: str,
        base: Path,
        updates: Sequence[tuple[Path, int]],
        server: Sequence[Path],
        out: Path,
        *,
        bearing: bool = False,
        paired: bool = False,
    ) -> dict[str, Any]:
        """Make a round's updates, each with its examples, one model in `out`: its `metrics`, `shares` and `server`.

        With `bearing` also how the updates lie to each other, under that name; `paired` with `base`, image by image.
        """
        ...

    def check(self, model: Path, current: Path, first: Path, plan: dict[str, Any]) -> dict[str, Any]:
        """Whether sites can train on from `model`: the members of a `Finding`."""
        ...

    def spent(self, charges: Sequence[Charge], delta: float) -> float:
        """What these steps reveal together: epsilon at `delta`."""
        ...

    def turn(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Open a turn, unless it is open, see `opening.Judge`."""
        ...

    def join(self, turn: dict[str, Any], head: Path | None, out: Path) -> dict[str, Any]:
        """The network of a turn, in `out`, of the site's layers and the judge's: `metrics`, `work`, `server`."""
        ...


class FileBench:
    """Asks a judge about model files.

    Args:
        judge: Its answers may also be OSError, when its disk is full, and JudgeDownError: try again later.
        folders: Where the models lie.
    """

    def __init__(self, judge: Judge, folders: Folders) -> None:
        self._judge = judge
        self._folders = folders

    def score(
        self,
        state: Federation,
        model: Path,
        shares: Sequence[float],
        base: Blob | None = None,
        others: Sequence[Slot] = (),
    ) -> Sequence[Metrics]:
        """What a candidate scores, or mixes of it with the current model, or steps from it."""
        paired = state.gate.paired
        if tuple(shares) == (1.0,) and base is None and not others:
            current = self._folders.model(state.current.model.sha256)
            return [self._judge.score(model, current) if paired else self._judge.score(model)]
        return self._mixed(state, model, shares, None, base, others, paired=paired)

    def mix(
        self, state: Federation, model: Path, share: float, base: Blob | None = None, others: Sequence[Slot] = ()
    ) -> Path:
        """A mix of a candidate with the current model, or a step from it, in a file beside it."""
        mixed = mixed_beside(model)
        self._mixed(state, model, (share,), mixed, base, others)
        return mixed

    def _mixed(
        self,
        state: Federation,
        model: Path,
        shares: Sequence[float],
        out: Path | None,
        base: Blob | None,
        others: Sequence[Slot],
        *,
        paired: bool = False,
    ) -> list[dict[str, Any]]:
        current = self._folders.model(state.current.model.sha256)
        start = None if base is None else self._lies(base)
        pairs = [(self._lies(slot.candidate), self._lies(slot.base)) for slot in others]
        return self._judge.mix(current, model, shares, out, start, pairs, paired=paired)

    def _lies(self, model: Blob) -> Path:
        """Where: models that were current stay, others as long as a session goes on from them, or they wait."""
        path = self._folders.model(model.sha256)
        return path if path.exists() else self._folders.update(model.sha256)

    def combine(self, state: Federation, updates: Sequence[Update]) -> Combined[Path]:
        """The result of the open round, in files of `opened`."""
        folders, out = self._folders, self._folders.opened / "round.safetensors"
        if state.policy.masked:
            return self._opened(state, updates)
        named = [(folders.update(update.model.sha256), update.examples) for update in updates]
        server = [folders.server_state(blob.sha256) for blob in state.current.server]
        base = folders.model(state.current.model.sha256)
        wanted, paired = evidence_agreed(state), state.gate.paired
        answer = self._judge.combine(state.policy.text, base, named, server, out, bearing=wanted, paired=paired)
        sets = server_files(out)[: answer["server"]]
        return Combined(out, answer["metrics"], answer["shares"], sets, answer["bearing"] if wanted else None)

    def _opened(self, state: Federation, updates: Sequence[Update]) -> Combined[Path]:
        """The result of masked updates: the mean of each group, then what is done with a round's updates."""
        from fedssh.charity import masks  # loads NumPy

        current, folders = state.round, self._folders
        assert current is not None, "a round closes"
        out, base = folders.opened / "round.safetensors", folders.model(state.current.model.sha256)
        files = {update.site: folders.update(update.model.sha256) for update in updates}
        means = [folders.opened / f"sum-{place}.safetensors" for place in range(len(current.groups))]

        def open_group(masking: Masking, mean: Path) -> int:
            sent = [files[site] for site in masking.arrived or ()]
            return masks.open_sum(state.policy, current, masking, sent, base, mean)

        def score(mean: Path) -> Metrics:
            return self._judge.score(mean, base) if state.gate.paired else self._judge.score(mean)

        def combine(parts: Sequence[tuple[Path, int]]) -> Combined[Path]:
            server = [folders.server_state(blob.sha256) for blob in state.current.server]
            policy, paired = state.policy.of_sums.text, state.gate.paired
            answer = self._judge.combine(policy, base, parts, server, out, paired=paired)
            return Combined(out, answer["metrics"], (), server_files(out)[: answer["server"]])

        try:
            return of_groups(state, current.groups, opened(current), means, open_group, score, combine)
        finally:
            for mean in means:
                mean.unlink(missing_ok=True)

    def join(self, state: Federation, sent: Sent, model: Path) -> Joined[Path]:
        """The network of a turn that is over, in files of `opened`."""
        if sent.site not in on(state):
            raise JudgeError(f"{sent.site} has no turn")
        out = mixed_beside(model)
        head = None if state.policy.for_sites else model
        answer = self._judge.join(question(state, self._folders, sent.site), head, out)
        sets = server_files(out)[: answer["server"]]
        return Joined(out, answer["metrics"], sets, Work.read(answer["work"], "what the judge counted"))

    def check(self, state: Federation, model: Path) -> Finding:
        """Whether sites can go on from a model that is about to become current."""
        from fedssh.rules.soundness import Finding  # loads NumPy, which only a model on its way needs

        current, first = (self._folders.model(one.sha256) for one in (state.current.model, state.genesis.model))
        return Finding(**self._judge.check(model, current, first, dict(state.genesis.plan)))


def mixed_beside(model: Path) -> Path:
    """Where a candidate's mix with the current model goes."""
    return model.with_suffix(".mixed.safetensors")

"""The engine `ssh`: a run as it really is, with agents as processes and signed, sealed bundles over SSH on loopback.

What comes out is read from the coordinator's ledger and her stored models. The clock is not the machine's but the one
that `engine_outcome.moments` reads out of the history, so that it can be compared with the memory engine's. Bytes are
those of model files: every one that the coordinator judged, and every release that a site's Bob brought in.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from experiments.definition.attack import IN_THE_DATA
from experiments.definition.backdoor import success
from experiments.definition.config import HISTORY, Outcome, Point, Prepared, Progress, Run
from experiments.engines.memory.history import read_history
from experiments.engines.memory.models import Weights, scores_on
from experiments.engines.outcome import moments, submissions, verdicts, work
from experiments.engines.ssh.processes import federation_in, model, set_up, start
from fedssh.errors import SettingsError
from fedssh.history.contributions import contributions
from fedssh.models.backend import load_keras
from fedssh.rules.events import Record
from fedssh.weights import read_header, read_weights
from scripts.demo.federation import Federation

GLANCE_SECONDS = 0.2
MAKES_CURRENT = ("genesis", "accepted", "round-accepted")


def run(run: Run, prepared: Prepared, folder: Path, progress: Progress, cores: int = 1) -> Outcome:
    """Do a run with real agents.

    Args:
        cores: Of no consequence: every agent is a process of one thread, and the system shares the cores out.

    Raises:
        SettingsError: The run needs what real agents do not do.
        AgentError: An agent ended with an error.
    """
    check(run)
    with federation_in(folder / "agents") as federation:
        progress(0.0, "keys, data and the first model")
        set_up(federation, run, prepared)
        start(federation, run)
        watcher = _Watcher(run, federation, progress)
        while federation.going():
            watcher.listen(GLANCE_SECONDS)
        watcher.listen(0)
        shutil.copy(federation.ledger, folder / HISTORY)
        records = read_history(folder / HISTORY)
        progress(0.99, "scoring on the test split")
        points = _points(records, prepared, federation, watcher)
        last = _weights(federation, _current(records)[-1])
        opens = success(run.attack, prepared.test, lambda images: scores_on(prepared.spec, images)(last))
    seconds, examples = watcher.trained()
    end = moments(records, records[0].fields["model"]["size"], watcher.examples)[len(records)]
    return Outcome(
        points=points,
        submissions=submissions(records),
        verdicts=verdicts(records),
        attacker=verdicts(records, run.attackers) if run.attack else {},
        contributed=contributions(record.fields for record in records),
        backdoor=opens,
        records=len(records),
        **vars(work(run, records)),
        train_seconds=seconds,
        trained_examples=examples,
        clock=end.clock,
        bytes=end.sent + sum(watcher.fetched.values()),
        wall_seconds=_wall_seconds(records),
    )


def check(run: Run) -> None:
    """Refuse what only the memory engine can do.

    Raises:
        SettingsError: Names it.
    """
    forged = run.attack is not None and (run.attack.kind not in IN_THE_DATA or run.attack.boost != 1)
    cannot = {
        "a centralised training": run.schedule == "centralised",
        "a straggler": run.straggler != 1,
        "scores of the sites' own models": run.score_sites,
        "an audit of membership": run.membership,
        f"control variates ({run.control})": run.control != "none",
        f"the attack {run.attack.text if run.attack else ''}": forged,
    }
    for what, wanted in cannot.items():
        if wanted:
            raise SettingsError(f"{run.slug}: the engine ssh cannot do {what}", "the engine memory can")


def _points(
    records: Sequence[Record], prepared: Prepared, federation: Federation, watcher: _Watcher
) -> tuple[Point, ...]:
    """Every model that was current, scored on both splits."""
    load_keras(1)
    holdout, test = (scores_on(prepared.spec, images) for images in (prepared.holdout, prepared.test))
    current = _current(records)
    model_bytes = current[0].fields["model"]["size"]
    when = moments(records, model_bytes, watcher.examples)
    points = []
    for version, record in enumerate(current):
        weights = _weights(federation, record)
        moment = when[record.sequence]
        brought = sum(size for (_, sequence), size in watcher.fetched.items() if sequence < record.sequence)
        points.append(
            Point(
                version=version,
                sequence=record.sequence,
                clock=moment.clock,
                examples=moment.examples,
                bytes=moment.sent + brought,
                site=record.fields.get("site"),
                holdout=holdout(weights),
                test=test(weights),
            )
        )
    return tuple(points)


def _current(records: Sequence[Record]) -> list[Record]:
    """The records that made a model current."""
    return [record for record in records if record.event in MAKES_CURRENT]


def _weights(federation: Federation, record: Record) -> Weights:
    """The model that a record made current."""
    path = model(federation, record.fields["model"]["sha256"])
    return read_weights(path, read_header(path).tensors)


def _wall_seconds(records: Sequence[Record]) -> float:
    """From the first release to the last record."""
    first = next(record for record in records if record.event == "release")
    begin, end = (datetime.fromisoformat(record.fields["time"]) for record in (first, records[-1]))
    return (end - begin).total_seconds()


@dataclass
class _Session:
    """A session as its Alice tells of it.

    Attributes:
        first: Whether it is the site's first, in which the network is compiled.
        since: When it, or its last epoch so far, began or ended.
    """

    first: bool
    examples: int
    since: datetime
    seconds: float = 0.0
    epochs: int = 0


class _Watcher:
    """Listens to what the agents say.

    Attributes:
        fetched: Bytes of the model by site and sequence of every release that a site's Bob brought in.
    """

    def __init__(self, run: Run, federation: Federation, progress: Progress) -> None:
        self.fetched: dict[tuple[str, int], int] = {}
        self._run = run
        self._federation = federation
        self._progress = progress
        self._sessions: dict[tuple[str, int], _Session] = {}
        self._over = 0

    def listen(self, seconds: float) -> None:
        """Take in what was said, waiting at most so long for the first word."""
        for event in self._federation.heard(seconds):
            self._hear(event.agent.name, event.agent.site, event.fields)

    @property
    def examples(self) -> dict[str, int]:
        """On how many images each site trains, by its own word."""
        return {site: session.examples for (site, _), session in self._sessions.items()}

    def trained(self) -> tuple[float, int]:
        """Seconds of training and the images of that time; without sites' first sessions, where there are others."""
        later = [session for session in self._sessions.values() if not session.first]
        counted = later or list(self._sessions.values())
        return sum(one.seconds for one in counted), sum(one.examples * one.epochs for one in counted)

    def _hear(self, agent: str, site: str | None, fields: dict[str, object]) -> None:
        kind = fields["event"]
        if agent == "bob" and kind == "release":
            self.fetched[str(site), int(str(fields["sequence"]))] = int(str(fields["bytes"]))
        elif agent == "alice" and kind in ("session", "epoch"):
            self._hear_alice(str(site), fields)
        elif agent == "charity" and kind in ("report", "round-accepted", "round-refused"):
            rounds = self._run.schedule == "rounds"
            self._over += (kind != "report") == rounds
            share = self._over / (self._run.sessions * (1 if rounds else self._run.sites))
            self._progress(min(share, 0.98), str(fields["text"]))

    def _hear_alice(self, site: str, fields: dict[str, object]) -> None:
        number, at = int(str(fields["session"])), datetime.fromisoformat(str(fields["time"]))
        if fields["event"] == "session":
            self._sessions[site, number] = _Session(number == 1, int(str(fields["examples"])), at)
            return
        session = self._sessions[site, number]
        session.seconds += (at - session.since).total_seconds()
        session.epochs += 1
        session.since = at

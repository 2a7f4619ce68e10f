"""The finished runs of an experiment as one file, `results.json`, and back.

{"format": 1, "experiment", "file", "question", "engine", "quick", "command", "date", "commit", "dirty", "machine",
 "runs": [{"slug", "digest", "settings", "made", "outcome"}, …]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import machine
from experiments.definition.attack import Attack
from experiments.definition.config import Outcome, Run, read_outcome
from experiments.definition.read import Experiment, read, shipped
from fedssh.errors import SettingsError
from fedssh.files import write_whole

FILE = "results.json"


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        digest: Of its settings and its engine.
        made: Where and when: engine, date, commit, dirty, machine.
    """

    run: Run
    digest: str
    outcome: Outcome
    made: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "slug": self.run.slug,
            "digest": self.digest,
            "settings": self.run.settings(),
            "made": dict(self.made),
            "outcome": self.outcome.plain(),
        }


@dataclass(frozen=True)
class Results:
    """What there is of an experiment.

    Attributes:
        experiment: As its file is now; its runs may be others than those that were done.
        results: What was done, in the order of the experiment.
        missing: Names of its runs that were not done, or with other settings.
        command: How it was started.
        date: Of the file.
    """

    experiment: Experiment
    results: tuple[Result, ...]
    missing: tuple[str, ...]
    command: str
    date: str


def read_result(experiment: str, fields: Mapping[str, Any]) -> Result:
    """The reverse of `Result.plain`."""
    settings = dict(fields["settings"])
    attack = Attack(**settings.pop("attack")) if settings["attack"] else settings.pop("attack")
    run = Run(experiment=experiment, slug=fields["slug"], attack=attack, **settings)
    return Result(run, fields["digest"], read_outcome(fields["outcome"]), fields["made"])


def save(out: Path, experiment: Experiment, file: Path, results: Sequence[Result], command: str, date: str) -> None:
    """Write what there is into `out`."""
    fields = {
        "format": 1,
        "experiment": experiment.name,
        "file": str(file.resolve()),
        "question": experiment.question,
        "engine": experiment.engine,
        "quick": experiment.quick,
        "command": command,
        "date": date,
        **machine.commit(),
        "machine": machine.describe(),
        "runs": [result.plain() for result in results],
    }
    write_whole(out / FILE, json.dumps(fields).encode() + b"\n", 0o644)


def load(out: Path) -> Results:
    """What there is in `out`; what is to be made of it is taken from the experiment's file as it is now.

    Raises:
        SettingsError: There are no results, or their experiment is gone.
    """
    path = out / FILE
    try:
        fields = json.loads(path.read_text())
        results = tuple(read_result(fields["experiment"], one) for one in fields["runs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else f"is damaged: {error!r}"
        raise SettingsError(f"{path} {reason}", "scripts/experiment NAME makes it") from None
    file = shipped().get(fields["experiment"], Path(fields["file"]))
    seeds = list(dict.fromkeys(result.run.seed for result in results))
    experiment = read(file, seeds, fields["engine"], fields["quick"])
    done = {result.digest for result in results}
    missing = tuple(run.slug for run in experiment.runs if run.digest(experiment.engine) not in done)
    return Results(experiment, results, missing, fields["command"], fields["date"])

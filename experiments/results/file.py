"""The finished runs of an experiment as one file, and back: `results.json` with all, or in brief (`brief`).

{"format": 1, "experiment", "file", "question", "engine", "quick", "command", "date", "commit", "dirty", "machine",
 "runs": [{"slug", "digest", "settings", "made", "outcome"}, …]}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import machine
from experiments.definition.attack import Attack
from experiments.definition.config import HISTORY, Outcome, Run, read_outcome
from experiments.definition.read import Experiment, read, shipped
from experiments.engines.memory.history import read_history
from experiments.engines.outcome import work
from experiments.results import brief
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
        results: What was done, in the order of the experiment; the candidates of a choice first.
        command: How it was started.
        date: Of the file.
    """

    experiment: Experiment
    results: tuple[Result, ...]
    command: str
    date: str


def read_result(experiment: str, fields: Mapping[str, Any]) -> Result:
    """The reverse of `Result.plain`."""
    settings = dict(fields["settings"])
    attack = Attack(**settings.pop("attack")) if settings["attack"] else settings.pop("attack")
    run = Run(experiment=experiment, slug=fields["slug"], attack=attack, **settings)
    return Result(run, fields["digest"], read_outcome(fields["outcome"]), fields["made"])


def counted(result: Result, out: Path) -> Result:
    """A result from before steps were counted, with the work of its sites from its history, if that is still there."""
    history = out / "runs" / result.run.slug / HISTORY
    if result.outcome.steps is not None or not history.is_file():
        return result
    return dataclasses.replace(
        result, outcome=dataclasses.replace(result.outcome, **vars(work(result.run, read_history(history))))
    )


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


def load(path: Path) -> Results:
    """What there is of an experiment; what is to be made of it is taken from the experiment's file as it is now.

    Args:
        path: The folder of its results, or a file in brief.

    Raises:
        SettingsError: There are no results, or their experiment is gone.
    """
    is_brief = path.name.endswith(brief.SUFFIX)
    file = path if is_brief else path / FILE
    try:
        fields = brief.unpacked(file.read_bytes()) if is_brief else json.loads(file.read_text())
        results = tuple(counted(read_result(fields["experiment"], one), path) for one in fields["runs"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else f"is damaged: {error!r}"
        raise SettingsError(f"{file} {reason}", "scripts/experiment NAME makes it") from None
    name = fields["experiment"]
    beside = path.with_name(f"{name}.toml") if is_brief else Path(fields["file"])
    experiment = _as_it_is_now(shipped().get(name, beside), fields, results)
    return Results(experiment, results, fields["command"], fields["date"])


def in_brief(found: Results) -> bytes:
    """The content of a file in brief; `read_brief` of it gives what a page may say.

    The test split of candidates with the seeds of a choice is left out, for it is reported of what was chosen alone.
    """
    experiment = found.experiment
    trials = {run.digest(experiment.engine) for run in experiment.trials}
    fields = {
        "format": 1,
        "experiment": experiment.name,
        "engine": experiment.engine,
        "quick": experiment.quick,
        "command": found.command,
        "date": found.date,
        "runs": [_untested(result.plain()) if result.digest in trials else result.plain() for result in found.results],
    }
    return brief.packed(fields)


def _untested(result: dict[str, Any]) -> dict[str, Any]:
    outcome = result["outcome"]
    points = [{**point, "test": {}} for point in outcome["points"]]
    return {**result, "outcome": {**outcome, "points": points, "site_scores": {}, "backdoor": {}}}


def read_brief(found: Results, content: bytes) -> Results:
    """The same results as they are in brief."""
    runs = brief.unpacked(content)["runs"]
    return dataclasses.replace(found, results=tuple(read_result(found.experiment.name, one) for one in runs))


def _as_it_is_now(file: Path, fields: Mapping[str, Any], results: Sequence[Result]) -> Experiment:
    choice = read(file, engine=fields["engine"], quick=fields["quick"]).choice
    others = choice.seeds if choice else ()
    seeds = list(dict.fromkeys(result.run.seed for result in results if result.run.seed not in others))
    return read(file, seeds, fields["engine"], fields["quick"])

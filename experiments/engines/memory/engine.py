"""The engine `memory`: the federation's own rules and the sites' own training, without processes, files or SSH.

    engine_history       the records, and where they lead
    engine_coordinator   the verdicts, rounds and releases
    engine_simulation    the sites and their clocks
    engine_trainers      the training, several sites at once
    engine_models        the first model, hashes and scores

The same seed gives the same models as with real agents, wherever the order in which models arrive is no matter of
chance: in rounds, in a relay, and with one site. Bytes are those of model files: every model that a site sends, and
every release that a site's Bob brings in, which are all of them while he is connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.definition.backdoor import success
from experiments.definition.config import HISTORY, Outcome, Point, Prepared, Progress, Run
from experiments.engines.memory.centralised import train_centralised
from experiments.engines.memory.coordinator import Became, Coordinator
from experiments.engines.memory.history import History, read_history
from experiments.engines.memory.models import Scores, first_model, scores_on, statistics_of
from experiments.engines.memory.simulation import Simulation, Site
from experiments.engines.memory.trainers import Crew
from experiments.engines.outcome import submissions, verdicts, work
from fedssh.history.contributions import contributions
from fedssh.models import loss_name
from fedssh.models.backend import load_keras
from fedssh.rules.label_shares import is_calibrated, label_shares
from fedssh.rules.policies import read_policy
from fedssh.rules.terms import agree


def run(run: Run, prepared: Prepared, folder: Path, progress: Progress, cores: int = 1) -> Outcome:
    """Do a run in this process.

    Args:
        cores: How many sites are trained at once; the outcome does not depend on it.

    Raises:
        SettingsError: The settings of the run do not go together.
    """
    load_keras(threads=1, computations=cores)
    progress(0.0, "the first model")
    terms = agreement(run, prepared)
    if run.schedule == "centralised":
        return train_centralised(run, prepared, terms, folder, progress, cores)
    scores = {"holdout": scores_on(prepared.spec, prepared.holdout), "test": scores_on(prepared.spec, prepared.test)}
    weights, examples = first_model(prepared, terms["plan"], run.seed)
    with History(folder / HISTORY) as history, Crew(run, prepared, terms["plan"], cores) as crew:
        story = _Story(run, scores["test"], progress)
        coordinator = Coordinator(
            history, prepared.spec, scores["holdout"], story.became, statistics_of(prepared.spec), prepared.train
        )
        simulation = Simulation(coordinator, _sites(run, crew), crew, story.went_on, run.score_sites)
        story.coordinator, story.simulation = coordinator, simulation
        metrics = coordinator.begin(terms, run.seed, weights, examples, run.site_names)
        story.begin(weights, metrics)
        simulation.run()
    records = read_history(folder / HISTORY)
    return Outcome(
        points=tuple(story.points),
        submissions=submissions(records),
        verdicts=verdicts(records),
        attacker=verdicts(records, run.attackers) if run.attack else {},
        contributed=contributions(record.fields for record in records),
        backdoor=success(
            run.attack, prepared.test, lambda images: scores_on(prepared.spec, images)(coordinator.weights)
        ),
        records=len(records),
        **vars(work(run, records)),
        train_seconds=simulation.seconds,
        trained_examples=simulation.timed,
        clock=simulation.clock,
        bytes=simulation.bytes,
        site_scores={site: scores["test"](weights) for site, weights in sorted(simulation.last_trained.items())},
    )


def agreement(run: Run, prepared: Prepared) -> dict[str, Any]:
    """What the sites agree on, as `charity init` records it.

    Raises:
        SettingsError: The settings do not go together.
    """
    settings = {**run.plan, "name": run.experiment, "schedule": "relay" if run.schedule == "relay" else "free"}
    settings |= {name: getattr(run, name) for name in ("policy", "gate", "margin", "metric", "sessions", "evidence")}
    settings |= {"submissions_per_hour": 0, "invalid_per_hour": 0}  # nobody has to be held back
    spec = prepared.spec
    terms = agree(settings, dict(spec), loss_name(spec))
    if is_calibrated(terms["plan"]):
        counts = np.bincount(prepared.holdout.labels, minlength=spec["classes"])
        terms["plan"] = terms["plan"] | {"label_shares": label_shares(counts.tolist())}
    return terms


def _sites(run: Run, crew: Crew) -> dict[str, Site]:
    sites = {}
    for number, name in enumerate(run.site_names, 1):
        pace = run.straggler if number == 1 else 1.0
        attack = run.attack if name in run.attackers else None
        sites[name] = Site(name, run.site_seed(number), crew.examples(name), pace, attack)
    return sites


class _Story:
    """Collects the points of a run, and tells how it goes.

    Attributes:
        coordinator, simulation: Are set before anything happens.
    """

    coordinator: Coordinator
    simulation: Simulation

    def __init__(self, run: Run, test: Scores, progress: Progress) -> None:
        self.points: list[Point] = []
        self._run = run
        self._test = test
        self._progress = progress
        self._rounds = read_policy(run.policy).rounds

    def begin(self, weights: Any, metrics: Mapping[str, Any]) -> None:
        """Note the first model."""
        self.points.append(Point(0, 1, 0.0, 0, 0, None, metrics, self._test(weights)))

    def became(self, model: Became, clock: float) -> None:
        """Note a model that became the current one."""
        simulation = self.simulation
        point = Point(
            version=len(self.points),
            sequence=model.record.sequence,
            clock=clock,
            examples=simulation.examples,
            bytes=simulation.bytes,
            site=model.site,
            holdout=model.metrics,
            test=self._test(model.weights),
        )
        self.points.append(point)

    def went_on(self, sessions: int) -> None:
        """Tell how far the run is."""
        run, last = self._run, self.points[-1]
        of = run.sessions if self._rounds else run.sessions * run.sites
        done, word = (self.coordinator.state.rounds, "round") if self._rounds else (sessions, "session")
        text = f"{word} {min(done + 1, of)} of {of}, holdout {run.metric} {last.holdout[run.metric] or 0.0:.4f}"
        self._progress(min(done / of, 1.0), text)

"""The engine `memory`: the federation's own rules and the sites' own training, without processes, files or SSH.

    engine_history       the records, and where they lead
    engine_coordinator   the verdicts, rounds and releases
    engine_simulation    the sites and their clocks
    engine_trainers      the training, several sites at once
    engine_controls      the sites' control variates, where an experiment asks for them
    engine_models        the first model, hashes and scores

The same seed gives the same models as with real agents, wherever the order in which models arrive is no matter of
chance: in rounds, in a relay, and with one site. Bytes are those of model files: every model that a site sends, and
every release that a site's Bob brings in, which are all of them while he is connected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from experiments.definition.backdoor import success
from experiments.definition.config import HISTORY, Outcome, Point, Prepared, Progress, Run
from experiments.engines.memory.audited import audited
from experiments.engines.memory.centralised import train_centralised
from experiments.engines.memory.controls import controls_of
from experiments.engines.memory.coordinator import Became, Coordinator
from experiments.engines.memory.history import History, read_history
from experiments.engines.memory.models import ModelFiles, Scores, first_model, scores_on, statistics_of
from experiments.engines.memory.simulation import Simulation, Site
from experiments.engines.memory.trainers import Crew
from experiments.engines.memory.turns import TurnCrew
from experiments.engines.outcome import submissions, verdicts, work
from experiments.engines.sited import per_site
from fedssh.errors import SettingsError
from fedssh.history.contributions import contributions
from fedssh.models import autoencoder, build, loss_name
from fedssh.models.backend import load_keras
from fedssh.rules.label_shares import is_calibrated, label_shares
from fedssh.rules.plan import read_plan
from fedssh.rules.policies import read_policy
from fedssh.rules.terms import agree
from fedssh.split.turn import found

WAITING = 4  # models that may wait for their scores on the test split


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
    holdout = scores_on(prepared.spec, prepared.holdout, "holdout", cores)
    test = scores_on(prepared.spec, prepared.test, "test")
    weights, examples = first_model(prepared, terms["plan"], run.seed)
    files = ModelFiles(weights, prepared.spec)
    controls = controls_of(prepared.spec, run.site_names) if run.control == "scaffold" else None
    turns = TurnCrew(run, prepared, terms) if read_policy(terms["policy"]).split else None
    with (
        History(folder / HISTORY) as history,
        turns or Crew(run, prepared, terms["plan"], cores, files, controls) as crew,
        _Story(run, test, progress) as story,
    ):
        coordinator = Coordinator(
            history, prepared.spec, holdout, story.became, statistics_of(prepared.spec), prepared.train,
            turns.turned if turns else None,
        )  # fmt: skip
        if turns:
            turns.server = lambda: coordinator.server
        simulation = Simulation(coordinator, _sites(run, crew), crew, story.went_on, run.score_sites, controls)
        story.coordinator, story.simulation = coordinator, simulation
        metrics = coordinator.begin(terms, run.seed, weights, examples, run.site_names)
        story.begin(weights, metrics)
        simulation.run()
        points = story.points()
    records = read_history(folder / HISTORY)
    return Outcome(
        points=points,
        submissions=submissions(records),
        verdicts=verdicts(records),
        attacker=verdicts(records, run.attackers) if run.attack else {},
        contributed=contributions(record.fields for record in records),
        backdoor=success(
            run.attack, prepared.test, lambda images: scores_on(prepared.spec, images)(coordinator.weights)
        ),
        audited=audited(run, prepared, coordinator.weights, records),
        per_site=per_site(
            prepared.spec,
            read_plan(terms["plan"]),
            read_policy(terms["policy"]),
            sum(map(crew.examples, run.site_names)) / run.sites,
        ),
        records=len(records),
        **vars(work(run, records)),
        train_seconds=simulation.seconds,
        trained_examples=simulation.timed,
        clock=simulation.clock,
        bytes=simulation.bytes,
        site_scores={site: test(weights) for site, weights in sorted(simulation.last_trained.items())},
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
    if "unlabelled" in terms["plan"]:
        try:
            terms["plan"] = terms["plan"] | {"unlabelled": autoencoder.found(terms["plan"]["unlabelled"], build(spec))}
        except ValueError as error:
            raise SettingsError(f"unlabelled {terms['plan']['unlabelled']}: {error}") from None
    if read_policy(terms["policy"]).split:
        try:
            if read_policy(terms["policy"]).for_sites:
                raise ValueError("weights=coordinator learns the same, bit for bit, and can be scored")
            terms["policy"] = found(read_policy(terms["policy"]), build(spec)).text
        except ValueError as error:
            raise SettingsError(f"policy {terms['policy']}: {error}") from None
    return terms


def _sites(run: Run, crew: Crew | TurnCrew) -> dict[str, Site]:
    sites = {}
    for number, name in enumerate(run.site_names, 1):
        pace = run.straggler if number == 1 else 1.0
        attack = run.attack if name in run.attackers else None
        sites[name] = Site(name, run.site_seed(number), crew.examples(name), pace, attack)
    return sites


class _Story:
    """Collects the points of a run, and tells how it goes. A context manager.

    The test split, by which nothing is decided, is scored in a thread of its own, beside the sites' training.

    Attributes:
        coordinator, simulation: Are set before anything happens.
    """

    coordinator: Coordinator
    simulation: Simulation

    def __init__(self, run: Run, test: Scores, progress: Progress) -> None:
        self._points: list[tuple[Point, Future[dict[str, Any]]]] = []  # without and with what the test split says
        self._run = run
        self._test = test
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="test-split")
        self._progress = progress
        self._rounds = read_policy(run.policy).rounds

    def __enter__(self) -> _Story:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def points(self) -> tuple[Point, ...]:
        """All of them, once the test split has been scored for each.

        Raises:
            ValueError: One cannot be scored.
        """
        return tuple(dataclasses.replace(point, test=scored.result()) for point, scored in self._points)

    def begin(self, weights: Any, metrics: Mapping[str, Any]) -> None:
        """Note the first model."""
        self._note(Point(0, 1, 0.0, 0, 0, None, metrics, {}), weights)

    def became(self, model: Became, clock: float) -> None:
        """Note a model that became the current one."""
        simulation = self.simulation
        point = Point(
            version=len(self._points),
            sequence=model.record.sequence,
            clock=clock,
            examples=simulation.examples,
            bytes=simulation.bytes,
            site=model.site,
            holdout=model.metrics,
            test={},
        )
        self._note(point, model.weights)

    def _note(self, point: Point, weights: Any) -> None:
        """Keep a point and have its model scored; a model waits for that in memory, so few may."""
        if len(self._points) >= WAITING:
            self._points[-WAITING][1].result()
        self._points.append((point, self._thread.submit(self._test, weights)))

    def went_on(self, sessions: int) -> None:
        """Tell how far the run is."""
        run, last = self._run, self._points[-1][0]
        of = run.sessions if self._rounds else run.sessions * run.sites
        done, word = (self.coordinator.state.rounds, "round") if self._rounds else (sessions, "session")
        text = f"{word} {min(done + 1, of)} of {of}, holdout {run.metric} {last.holdout[run.metric] or 0.0:.4f}"
        self._progress(min(done / of, 1.0), text)

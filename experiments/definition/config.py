"""One run of an experiment: what it is given and what comes out of it. The seam between the runner and the engines.

An engine is a module with

    run(run: Run, prepared: Prepared, folder: Path, progress: Progress, cores: int) -> Outcome

It writes `history.jsonl` into `folder`. Its outcome depends on `run` and `prepared` only: not on `cores`, nor on what
ran before in the same process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.rules.terms import SCHEDULES as AGREED

if TYPE_CHECKING:
    import numpy as np

    from experiments.definition.attack import Attack
    from fedssh.models.data.images import Images

SCHEDULES = (*AGREED, "rounds", "centralised")
ENGINES = ("memory", "ssh")
HISTORY = "history.jsonl"

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Run:
    """Everything that decides how one run goes.

    Attributes:
        experiment: Name of the experiment it belongs to.
        slug: Its own name there, fit for a folder.
        seed: Of every random choice.
        architecture: A spec without `input` and `classes`, which come from the data.
        sites: How many train; 1 when centralised.
        schedule: One of `SCHEDULES`. `centralised` is one training on the data of all.
        policy: As a release tells it, see `fedssh.rules.policies`.
        gate: on, off, ladder or parameter-free-ladder.
        margin: Of the gate, in units of `metric`.
        metric: What policy and gate compare first.
        sessions: Of each site; the number of rounds where sites train in rounds.
        plan: The training plan, as it stands in a release.
        validation: Share of its images that each site holds out.
        attack: What the last sites do instead of sending what they trained; None is nothing.
        straggler: How many times as long the first site takes per image.
        score_sites: Whether the sites' own last models are scored on the test split too.
        data: What only `prepare` reads.
        evidence: on: rounds tell how their updates lie to each other.
        control: scaffold: sites correct their gradients by control variates, see `engines.memory.controls`; or none.
        membership: Whether the last model is asked which images it was trained on, see `engines.memory.audited`.
    """

    experiment: str
    slug: str
    seed: int
    architecture: Mapping[str, Any]
    sites: int
    schedule: str
    policy: str
    gate: str
    margin: float
    metric: str
    sessions: int
    plan: Mapping[str, Any]
    validation: float
    attack: Attack | None
    straggler: float
    score_sites: bool
    data: Mapping[str, Any]
    evidence: str = "off"
    control: str = "none"
    membership: bool = False

    @property
    def site_names(self) -> tuple[str, ...]:
        """In the order of their numbers, which is the alphabetical one too."""
        width = len(str(self.sites))
        return tuple(f"alice-{number:0{width}}" for number in range(1, self.sites + 1))

    @property
    def attackers(self) -> tuple[str, ...]:
        """The sites that do what `attack` says."""
        return self.site_names[self.sites - self.attack.sites :] if self.attack else ()

    def site_seed(self, number: int) -> int:
        """The seed of a site, from 1: `alice train --seed`."""
        return (self.seed * 1009 + number) % 2**31

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, as plain values."""
        fields = dataclasses.asdict(self) | {"attack": self.attack.plain() if self.attack else None}
        as_ever = {"evidence": "off", "control": "none", "membership": False}  # then it is the run that it ever was
        left_out = {"experiment", "slug"} | {name for name, usual in as_ever.items() if fields[name] == usual}
        return {name: value for name, value in fields.items() if name not in left_out}

    def digest(self, engine: str) -> str:
        """Tells runs with other settings apart."""
        text = json.dumps({"engine": engine, **self.settings()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """The arrays of a run.

    Attributes:
        spec: The network, whole and checked.
        train: The coordinator's images for the first model's one epoch; None: it starts from random weights.
        holdout: What the coordinator judges by.
        test: What nobody judges by; every release is scored on it for the report.
        parts: Each site's images, by name in order; centralised: one entry with all of them.
        weights: The file of given first weights, as for `charity init --weights`; what it lacks is random.
        columns: Of a table, what its features are called.
        as_they_stand: The same with a table's rows as the agents read them, before they are standardised.
        unlabelled: By name of the sites, images of theirs without labels, float32 [n, height, width, channels].
    """

    spec: dict[str, Any]
    train: Images | None
    holdout: Images
    test: Images
    parts: Mapping[str, Images]
    weights: Path | None = None
    columns: tuple[str, ...] | None = None
    as_they_stand: Prepared | None = None
    unlabelled: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A model that became the current one.

    Attributes:
        version: 0 is the start; then how often the current model changed.
        sequence: Its record in the history, if there is one.
        clock: Simulated time since the start, in images: as many as one site could have trained on until then.
        examples: Images that all sites together trained on until then, once per epoch.
        bytes: Of models shipped until then, to the coordinator and from her.
        site: Whose candidate it was; None for the start and for rounds.
        holdout, test: What it scores, see `fedssh.models.score`.
    """

    version: int
    sequence: int | None
    clock: float
    examples: int
    bytes: int
    site: str | None
    holdout: Mapping[str, Any]
    test: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came out of a run. Everything but times and memory is the same each time.

    Attributes:
        points: The start and every release, in order; the last one is the result.
        site_scores: By site, what it trained last scores on the test split; empty unless asked for.
        submissions: Models sent by sites.
        verdicts: How often each verdict was given.
        attacker: The same for the attackers alone.
        contributed: By site what its models brought, by metric, as of `contributions`; empty of older outcomes.
        backdoor: Of a backdoor, the shares that `backdoor.success` finds with the last model on the test split.
        audited: What the last model tells of who was trained on, see `engines.memory.audited`; empty unless asked for.
        records: Lines of the history.
        train_seconds: Inside training, all sites added up.
        trained_examples: In that time.
        clock: Simulated time at the end, in images.
        bytes: Of models shipped in all.
        per_site: What training costs a site, as of `engines.sited`; empty where nobody counted it.
        wall_seconds: From the first model to the last; None is filled in by the runner.
        peak_mb: Most memory in use; None is filled in by the runner.
        note: One line for people.
        steps: Gradient steps that a site trained, mean of all sites; None where nobody counted.
        synchronisations: Releases that a site started to train from, mean of all sites; 0 for centralised training.
        examples: Images that all sites together trained on until the end, once per epoch.
    """

    points: tuple[Point, ...]
    submissions: int
    verdicts: Mapping[str, int]
    records: int
    train_seconds: float
    trained_examples: int
    clock: float
    bytes: int
    site_scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    attacker: Mapping[str, int] = field(default_factory=dict)
    backdoor: Mapping[str, float] = field(default_factory=dict)
    audited: Mapping[str, float] = field(default_factory=dict)
    contributed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    per_site: Mapping[str, float] = field(default_factory=dict)
    wall_seconds: float | None = None
    peak_mb: float | None = None
    note: str = ""
    steps: float | None = None
    synchronisations: float | None = None
    examples: int | None = None

    @property
    def final(self) -> Point:
        """The result."""
        return self.points[-1]

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return dataclasses.asdict(self)


def read_outcome(fields: Mapping[str, Any]) -> Outcome:
    """The reverse of `Outcome.plain`."""
    return Outcome(**{**fields, "points": tuple(Point(**point) for point in fields["points"])})

"""What a history says of how a run went. Pure: records in, numbers out; the same for both engines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from experiments.definition.config import Run
from fedssh.rules.events import Record
from fedssh.rules.privacy import read_privacy

VERDICTS = ("accepted", "refused", "counted", "invalid", "round-accepted", "round-refused")
SENT = ("accepted", "refused", "counted", "invalid")


@dataclass(frozen=True)
class Moment:
    """How far a run was after a record.

    Attributes:
        clock: In images, as many as one site could have trained on since the run began.
        examples: Images that all sites together had trained on.
        sent: Bytes of models sent to the coordinator.
    """

    clock: float
    examples: int
    sent: int


def verdicts(records: Iterable[Record], sites: Collection[str] | None = None) -> dict[str, int]:
    """How often each verdict was given; with `sites`, to these sites alone, where rounds are nobody's."""
    found = Counter(
        record.event
        for record in records
        if record.event in VERDICTS and (sites is None or record.fields.get("site") in sites)
    )
    return {event: found[event] for event in VERDICTS if found[event]}


@dataclass(frozen=True)
class Work:
    """What the sites of a run did, so that runs of equal work can be compared.

    Attributes:
        steps: Gradient steps, mean of all sites. A batch is one, the last and shorter one of an epoch too.
        synchronisations: Releases that a site started a session from, mean of all sites.
        examples: Images that all sites together trained on, once per epoch.
    """

    steps: float
    synchronisations: float
    examples: int


def work(run: Run, records: Iterable[Record]) -> Work:
    """What the sites did, as far as the coordinator heard of it; also of a centralised training, which is one session.

    Who sends random changes of a release has trained nothing.
    """
    trained: dict[tuple[str, int], int] = {}
    examples: dict[tuple[str, int], int] = {}
    started = set()
    idle = run.attackers if run.attack and run.attack.kind == "perturb" else ()
    for record in records:
        fields = record.fields
        if "session" not in fields or "examples" not in fields:
            continue
        key = fields["site"], fields["session"]
        if "builds_on" in fields:
            started.add(key)
        if fields["site"] not in idle:
            epochs = fields["epochs"] if record.event == "report" else fields["epoch"]
            trained[key], examples[key] = max(epochs, trained.get(key, 0)), fields["examples"]
    size, private = run.plan["batch_size"], run.plan.get("privacy")
    of_epoch = read_privacy(private).steps_of if private else lambda count, size: math.ceil(count / size)
    steps = sum(trained[key] * of_epoch(examples[key], size) for key in trained)
    every = sum(trained[key] * examples[key] for key in trained)
    return Work(steps / run.sites, len(started) / run.sites, every)


def submissions(records: Iterable[Record]) -> int:
    """How many models were sent to the coordinator."""
    return sum(record.event in SENT for record in records)


def moments(
    records: Sequence[Record], model_bytes: int, examples: Mapping[str, int] = MappingProxyType({})
) -> dict[int, Moment]:
    """How far the run was after each record, by its sequence.

    The clock follows from what came out of what: a session begins when the site has ended the one before and the
    release it builds on is there, and takes as long as the images it trains on; a record comes no earlier than the one
    before it. So the clock of a run on a busy machine is that of an idle one, as far as the order is the same.

    Args:
        model_bytes: The size of a model file.
        examples: On how many images each site trains, for where the history does not tell.
    """
    clocks: dict[int, float] = {}
    trained: dict[tuple[str, int], int] = {}
    begun: dict[tuple[str, int], float] = {}
    free: dict[str, float] = {}
    found, clock, sent = {}, 0.0, 0
    for record in records:
        fields = record.fields
        if "builds_on" in fields and "session" in fields:
            site, key = fields["site"], (fields["site"], fields["session"])
            begun.setdefault(key, max(free.get(site, 0.0), clocks[fields["builds_on"]]))
            trained[key] = _trained(record.event, fields, trained.get(key, 0), examples.get(site, 0))
            clock = max(clock, begun[key] + trained[key])
            if record.event == "report":
                free[site] = begun[key] + trained[key]
        work, layers = record.fields.get("work"), record.fields.get("candidate")
        if work and layers:  # what a site sends at the end of a turn of split learning is its layers
            sent += layers["size"] + work["received"] + work["sent"]
        else:
            sent += model_bytes * (record.event in SENT)
        clocks[record.sequence] = clock
        found[record.sequence] = Moment(clock, sum(trained.values()), sent)
    return found


def _trained(event: str, fields: Mapping[str, int], before: int, examples: int) -> int:
    """Images that a session has trained on, once per epoch."""
    epochs = fields["epochs"] if event == "report" else fields["epoch"]
    return max(before, (fields["examples"] or examples) * epochs)

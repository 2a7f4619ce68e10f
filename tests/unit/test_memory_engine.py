"""The memory engine's rules without Keras: sites that add numbers, and a judge that reads its score off the weights."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from experiments.definition.attack import read_attack
from experiments.engines.memory.controls import Controls
from experiments.engines.memory.coordinator import Became, Coordinator, Sent
from experiments.engines.memory.history import History, read_history
from experiments.engines.memory.models import ModelFiles, Scores, Weights, identifier
from experiments.engines.memory.simulation import Checkpoint, Session, Simulation, Site
from experiments.engines.memory.turned import Turned
from experiments.engines.outcome import moments, submissions, verdicts
from fedssh.errors import DecisionError, LedgerError, SettingsError
from fedssh.forms import canonical
from fedssh.rules.events import START, Blob, Local, Record, Work
from fedssh.rules.federation import derive
from fedssh.rules.gate import PAIRED, standard_error
from fedssh.rules.records import NOBODY
from fedssh.rules.replay import BEARING, TURN, Replay
from fedssh.rules.stored import from_value, to_value
from fedssh.rules.terms import agree
from fedssh.weights import write_weights

SPEC = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}
STEP = {"alice-1": 0.125, "alice-2": 0.25, "alice-3": 0.0625, "alice-4": 0.03125}
SETTINGS = {
    "name": "test", "policy": "best", "gate": "on", "margin": 0.01, "metric": "accuracy", "schedule": "free",
    "sessions": 2, "publish": None, "batch_size": 8, "epochs": None, "patience": 10, "optimizer": "sgd",
    "learning_rate": 0.1, "momentum": 0.0, "proximal": 0.0, "submissions_per_hour": 0, "invalid_per_hour": 0,
}  # fmt: skip


def weights(value: float) -> dict[str, np.ndarray]:
    """A model that scores the accuracy `value`."""
    return {"dense1/kernel": np.full((4, 2), value, np.float32), "output/bias": np.full((1,), value, np.float32)}


def judge(model: Weights, against: Weights | None = None, /) -> dict[str, Any]:
    """Accuracy and loss, from the last weight; and how it differs from another model's."""
    value = float(model["output/bias"][0])
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is no accuracy")
    scores = {"loss": round(1 - value, 6), "accuracy": round(value, 6), "auc": None}
    if against is None:
        return scores
    other, found = called_rightly(against), called_rightly(model)
    return scores | {PAIRED: standard_error(int((other & ~found).sum()), int((~other & found).sum()), len(found))}


def called_rightly(model: Weights) -> np.ndarray:
    """Of a thousand images as many as the model scores, from another one on for each score: bool [1000]."""
    count = round(1000 * float(model["output/bias"][0]))
    found: np.ndarray = (np.arange(1000) + 3 * count) % 1000 < count
    return found


class Adders:
    """Each site adds its step to the weights, in one epoch, or in two that are both published."""

    def __init__(self, examples: dict[str, int], epochs: int = 1) -> None:
        self._examples = examples
        self._epochs = epochs

    def examples(self, site: str) -> int:
        return self._examples[site]

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        result: Future[Session] = Future()
        result.set_result(self.session(site, weights))
        return result

    def session(self, site: str, weights: Weights) -> Session:
        epochs = range(1, self._epochs + 1)
        models = [
            {name: array + np.float32(STEP.get(site, 0.03125) * epoch) for name, array in weights.items()}
            for epoch in epochs
        ]
        published = zip(epochs, models, strict=True)
        checkpoints = tuple(Checkpoint(epoch, Local(0.5, 0.5), model) for epoch, model in published)
        return Session(checkpoints, self._epochs, 0.001)


class Opposed(Adders):
    """Sites of which each moves one weight the right way and another the wrong way, as far."""

    MOVES: ClassVar = {"alice-1": (0.5, -0.45), "alice-2": (-0.4, 0.5), "alice-3": (-0.3, 0.25)}

    def session(self, site: str, weights: Weights) -> Session:
        kernel, bias = self.MOVES[site]
        model = {name: array + np.float32(bias if "bias" in name else kernel) for name, array in weights.items()}
        return Session((Checkpoint(1, Local(0.5, 0.5), model),), 1, 0.001)


class Halves(Adders):
    """Sites that add to the kernel while the coordinator adds to the bias; the second site's turns make it worse."""

    STEPS: ClassVar = {"alice-1": 0.125, "alice-2": -0.25, "alice-3": 0.0625}

    def __init__(self, examples: dict[str, int]) -> None:
        super().__init__(examples)
        self._turns, self._turned = 0, dict[str, Turned]()

    def session(self, site: str, weights: Weights) -> Session:
        self._turns += 1
        head, tail = ({name: weights[name] + np.float32(self.STEPS[site])} for name in ("dense1/kernel", "output/bias"))
        state = {"iteration": np.array([0, self._turns], np.float32)}
        work = Work(steps=self._turns, images=self._examples[site], received=4000, sent=3000, seconds=0.5)
        self._turned[site] = Turned(tail, [state, state], work)
        return Session((Checkpoint(1, Local(0.5, 0.5), head),), 1, 0.001)

    def turned(self, site: str) -> Turned:
        return self._turned[site]


def judge_both(model: Weights, against: Weights | None = None, /) -> dict[str, Any]:
    """The loss is how far two weights are from 1, squared."""
    far = [1 - float(model[name].reshape(-1)[0]) for name in ("dense1/kernel", "output/bias")]
    return {"loss": round(far[0] ** 2 + far[1] ** 2, 6), "accuracy": 0.5, "auc": None}


class LateAdders(Adders):
    """The same, each session in a thread and after a while of its own."""

    def __init__(self, examples: dict[str, int], seed: int) -> None:
        super().__init__(examples)
        self._random, self._threads = random.Random(seed), ThreadPoolExecutor(4)

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        pause = self._random.random() / 50

        def late() -> Session:
            time.sleep(pause)
            return self.session(site, weights)

        return self._threads.submit(late)


class Controlled(Adders):
    """The same, and each session adds the site's step to its control variate; notes which ones each trains with."""

    def __init__(self, examples: dict[str, int]) -> None:
        super().__init__(examples)
        self.controls = Controls(list(examples), {"output/bias": np.zeros(1, np.float32)})
        self.seen: dict[tuple[str, int], tuple[float, float]] = {}

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        control, result = self.controls.begin(site), Future[Session]()
        self.seen[site, session] = control.own["output/bias"].item(), control.mean["output/bias"].item()
        own = {name: array + np.float32(STEP[site]) for name, array in control.own.items()}
        result.set_result(dataclasses.replace(self.session(site, weights), control=own))
        return result


@dataclass
class Played:
    """A run that is over."""

    coordinator: Coordinator
    simulation: Simulation
    records: list[Record]
    became: list[tuple[float, Became]] = field(default_factory=list)

    def of(self, *events: str) -> list[dict[str, Any]]:
        """The records of such kinds."""
        return [record.fields for record in self.records if record.event in events]

    @property
    def values(self) -> list[float]:
        """What the models were that became current."""
        return [round(float(model.weights["output/bias"][0]), 6) for _, model in self.became]


def play(
    path: Path,
    examples: dict[str, int],
    trainers: Adders | None = None,
    *,
    start: float = 0.1,
    pace: dict[str, float] | None = None,
    attack: tuple[str, str] | None = None,
    by: Scores = judge,
    controls: Controls | None = None,
    **settings: Any,
) -> Played:
    """Run a federation to its end."""
    became: list[tuple[float, Became]] = []
    sites = {
        name: Site(name, number, count, (pace or {}).get(name, 1.0))
        for number, (name, count) in enumerate(examples.items(), 1)
    }
    if attack:
        sites[attack[0]].attack = read_attack(attack[1])
    with History(path) as history:
        turned = trainers.turned if isinstance(trainers, Halves) else None
        coordinator = Coordinator(
            history, SPEC, by, lambda model, clock: became.append((clock, model)), turned=turned
        )  # fmt: skip
        simulation = Simulation(coordinator, sites, trainers or Adders(examples), keep_last=True, controls=controls)
        terms = agree({**SETTINGS, **settings}, SPEC, "binary_crossentropy")
        coordinator.begin(terms, 1, weights(start), 0, list(sites))
        simulation.run()
    return Played(coordinator, simulation, read_history(path), became)


@contextmanager
def written(tmp_path: Path, model: Weights) -> Iterator[Path]:
    path = tmp_path / "model.safetensors"
    write_weights(path, model, SPEC)
    yield path


# steps that wait


def test_what_opposed_sites_cannot_bring_alone_they_bring_together(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 130}
    alone = play(tmp_path / "s", sites, Opposed(sites), by=judge_both, policy="step", sessions=4)
    assert not alone.of("accepted")  # either spoils by one weight what it gains by the other
    played = play(tmp_path / "h", sites, Opposed(sites), by=judge_both, policy="gather", sessions=4)
    first, *_ = played.of("accepted")
    waited = next(record for record in played.records if [record.sequence] == first["slots"])
    assert (waited.event, waited.fields["site"], first["site"]) == ("refused", "alice-1", "alice-2")
    assert first["share"] == 2.0  # from 0.1 by twice the mean, 0.1 and 0.05
    assert first["metrics"]["loss"] == pytest.approx(0.8**2 + 0.85**2)
    held = Replay()
    for record in played.records:
        held.follow(record)
    assert played.coordinator.state.slots == {}  # it is finished, and nothing waits any more


def test_a_step_that_spoils_every_mean_keeps_nobody_from_being_judged(tmp_path: Path) -> None:
    """Alone it can be scored, in each of its parts; in a mean of two it leads to what is no number."""

    def spoiled(model: Weights, against: Weights | None = None, /) -> dict[str, Any]:
        value = float(model["dense1/kernel"].reshape(-1)[0])
        if any(abs(value - mean) < 0.01 for mean in (4.225, 2.1625, 8.35)):
            raise ValueError("the predictions are not finite numbers")
        return judge_both(model)

    class Spoiling(Opposed):
        MOVES: ClassVar = {"alice-1": (8.0, 8.0), "alice-2": (0.25, 0.25)}

    sites = {"alice-1": 100, "alice-2": 130}
    played = play(tmp_path / "h", sites, Spoiling(sites), by=spoiled, policy="gather", sessions=1)
    assert [record["site"] for record in played.of("accepted")] == ["alice-2"]
    assert [record["metrics"]["loss"] > 2 for record in played.of("refused")] == [True]


# turns in two rooms


def test_a_turn_that_the_gate_refuses_takes_both_halves_back(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 130, "alice-3": 70}
    played = play(tmp_path / "h", sites, Halves(sites), policy="split:dense1", start=0.4)
    assert played.values == pytest.approx([0.525, 0.5875, 0.7125, 0.775])
    assert [(one["site"], one["event"]) for one in played.of("accepted", "refused")] == [
        ("alice-1", "accepted"), ("alice-2", "refused"), ("alice-3", "accepted"),
        ("alice-1", "accepted"), ("alice-2", "refused"), ("alice-3", "accepted"),
    ]  # fmt: skip
    accepted, refused = played.of("accepted")[0], played.of("refused")[0]
    assert (accepted["work"]["steps"], accepted["work"]["received"], len(accepted["state"])) == (1, 4000, 2)
    assert accepted["candidate"] != accepted["model"]
    assert refused["work"]["steps"] == 2
    assert "state" not in refused
    assert [set(model.weights) for _, model in played.became] == [{"dense1/kernel", "output/bias"}] * 4
    assert played.coordinator.server[0]["iteration"].tolist() == [0, 6]
    held = Replay()
    for record in played.records:
        held.follow(record)
    assert held.unchecked[TURN] == 6


def test_in_rounds_the_mean_is_of_what_was_joined(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-3": 300}
    played = play(tmp_path / "h", sites, Halves(sites), policy="splitfed:dense1,server=momentum", start=0.4, sessions=2)
    first = 0.4 + (100 * 0.125 + 300 * 0.0625) / 400
    assert played.values[0] == pytest.approx(first)
    counted = played.of("counted")[0]
    assert counted["candidate"] != counted["model"]
    assert counted["work"]["images"] == 100
    assert [part["share"] for part in played.of("round-accepted")[0]["updates"]] == [0.25, 0.75]
    held = Replay()
    for record in played.records:
        if record.event == "counted":
            fields = {name: one for name, one in record.fields.items() if name != "work"}
            with pytest.raises(DecisionError, match="it does not say what the turn took"):
                held.follow(Record(record.sequence, record.hash, canonical(fields), ""))
        held.follow(record)
    assert held.unchecked[TURN] == 4


def test_layers_that_are_for_sites_alone_are_handed_on_and_judged_by_nobody(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 130}
    policy = "split:dense1,weights=sites"
    played = play(tmp_path / "h", sites, Halves(sites), policy=policy, gate="off", start=0.4, sessions=1)
    first, second = played.of("accepted")
    assert [one["metrics"] for one in (first, second)] == [None, None]
    assert first["reason"] == NOBODY
    assert len(first["state"]) == 1
    *_, last = played.of("release")
    assert last["metrics"]["accuracy"] == 0.4  # of the first model, the last that was scored
    layers = last["federation"]["layers"]
    assert (layers["record"], layers["site"], layers["sha256"]) == (
        second["sequence"], "alice-2", second["candidate"]["sha256"],
    )  # fmt: skip
    held = Replay()
    for record in played.records:
        if record.sequence == first["sequence"]:
            lies: list[dict[str, Any]] = [
                {"state": []}, {"work": None}, {"reason": "it is good"}, {"metrics": {"accuracy": 1.0, "loss": 0.1}},
            ]  # fmt: skip
            for lie in lies:
                fields = {name: one for name, one in {**record.fields, **lie}.items() if name != "work" or one}
                with pytest.raises(DecisionError):
                    held.follow(Record(record.sequence, record.hash, canonical(fields), ""))
        held.follow(record)
    assert derive(played.records).current.layers is not None
    state = to_value(derive(played.records))
    assert from_value(state, len(played.records), played.records[-1].hash) == derive(played.records)
    with pytest.raises(SettingsError, match="gate off goes with weights=sites"):
        agree({**SETTINGS, "policy": policy}, SPEC, "binary_crossentropy")


@pytest.mark.parametrize("lie", [{"work": None}, {"state": []}, {"state": None}])
def test_what_no_turn_can_end_with_is_noticed(tmp_path: Path, lie: dict[str, Any]) -> None:
    """None: it does not say so."""
    played = play(tmp_path / "h", {"alice-1": 9}, Halves({"alice-1": 9}), policy="split:dense1", sessions=1)
    held = Replay()
    for record in played.records:
        if record.event == "accepted":
            fields = {name: one for name, one in {**record.fields, **lie}.items() if one is not None}
            with pytest.raises(DecisionError):
                held.follow(Record(record.sequence, record.hash, canonical(fields), ""))
            return
        held.follow(record)
    pytest.fail("nothing was accepted")


# rounds


def test_fedavg_takes_the_mean_weighted_by_examples(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, policy="fedavg", sessions=1)
    assert played.values == [pytest.approx(0.1 + (100 * 0.125 + 300 * 0.25) / 400)]
    closed = played.of("round-accepted")[0]
    assert [(part["site"], part["share"]) for part in closed["updates"]] == [("alice-1", 0.25), ("alice-2", 0.75)]
    assert played.coordinator.state.finished


def test_a_round_takes_as_long_as_its_slowest_site(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, policy="fedavg", sessions=2)
    assert [clock for clock, _ in played.became] == [300, 600]
    assert played.simulation.examples == 800
    slow = play(tmp_path / "s", {"alice-1": 100, "alice-2": 300}, pace={"alice-1": 5}, policy="fedavg", sessions=2)
    assert [clock for clock, _ in slow.became] == [500, 1000]


def test_a_straggler_misses_the_deadline_and_delays_nobody(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 100, "alice-3": 100}
    policy = "fedavg:deadline=0.15,minimum=0.5"
    played = play(tmp_path / "h", sites, pace={"alice-1": 10}, policy=policy, sessions=3)
    closed = played.of("round-accepted")
    assert [fields["missing"] for fields in closed] == [["alice-1"]] * 3
    assert [clock for clock, _ in played.became] == [150, 300, 450]
    late = [fields for fields in played.of("refused") if fields["site"] == "alice-1"]
    assert late and "closed" in late[0]["reason"]


def test_where_it_is_agreed_a_round_tells_how_its_updates_lie_to_each_other(tmp_path: Path) -> None:
    """Steps of 0.125, 0.25 and 0.0625 in each of nine weights, one of them backwards."""
    sites = {"alice-1": 100, "alice-2": 100, "alice-3": 100}
    settings: dict[str, Any] = {"attack": ("alice-3", "sign-flip:1"), "policy": "median", "gate": "off"}
    played = play(tmp_path / "h", sites, **settings, sessions=2, evidence="on")
    for closed in played.of("round-accepted"):
        bearing = [(part["length"], part["cosine"]) for part in closed["updates"]]
        assert bearing == [(0.375, 0.0), (0.75, 0.0), (0.1875, -1.0)]  # between one along and one against: 0
    held = Replay()
    for record in played.records:
        held.follow(record)
    assert held.unchecked[BEARING] == 2
    silent = play(tmp_path / "s", sites, **settings, sessions=2)
    assert not any({"length", "cosine"} & part.keys() for one in silent.of("round-accepted") for part in one["updates"])


@pytest.mark.parametrize("lie", [{"cosine": 1.5}, {"cosine": "x"}, {"length": -1.0}, {"length": None}, None])
def test_what_no_update_can_lie_like_is_noticed(tmp_path: Path, lie: dict[str, Any] | None) -> None:
    """None: it says nothing, although that was agreed."""
    played = play(tmp_path / "h", {"alice-1": 1, "alice-2": 1}, policy="fedavg", gate="off", evidence="on", sessions=1)
    held = Replay()
    for record in played.records:
        fields = record.fields
        if record.event == "round-accepted":
            more = dict.fromkeys(("length", "cosine")) if lie is None else {}
            part = {name: value for name, value in fields["updates"][0].items() if name not in more} | (lie or {})
            fields = {**fields, "updates": [part, *fields["updates"][1:]]}
            with pytest.raises((DecisionError, LedgerError)):
                held.follow(Record(record.sequence, record.hash, canonical(fields), ""))
            return
        held.follow(record)


def test_who_knows_the_others_knows_what_is_still_on_its_way(tmp_path: Path) -> None:
    """The attacker sends first; a straggler's step is known to it all the same. Steps are 0.125 and 0.0625."""
    sites = {"alice-1": 100, "alice-2": 50, "alice-3": 400}
    played = play(tmp_path / "h", sites, attack=("alice-2", "ipm:0.5"), policy="fedavg", sessions=1, gate="off")
    forged = 0.1 - 0.5 * (0.125 + 0.0625) / 2
    assert played.values == [pytest.approx((100 * 0.225 + 50 * forged + 400 * 0.1625) / 550, abs=1e-6)]


def test_without_rounds_it_adds_the_newest_steps_of_the_others_to_its_own_base(tmp_path: Path) -> None:
    """By its second session alice-1 has gone on from another release; its step is 0.125 still."""
    sites = {"alice-1": 100, "alice-2": 150}
    played = play(tmp_path / "h", sites, attack=("alice-2", "ipm:0.25"), start=0.4, gate="off", sessions=2)
    scored = [
        fields["metrics"]["accuracy"] for fields in played.of("refused", "accepted") if fields["site"] == "alice-2"
    ]
    assert scored == [pytest.approx(base - 0.25 * 0.125, abs=1e-6) for base in (0.4, 0.525)]


def test_nan_is_invalid_and_the_round_closes_without_it(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 100, "alice-3": 100}
    played = play(tmp_path / "h", sites, attack=("alice-3", "nan"), policy="fedavg:deadline=1", sessions=1)
    assert played.of("invalid")[0]["reason"] == "9 of 9 weights are not finite"
    assert played.of("round-accepted")[0]["missing"] == ["alice-3"]
    assert verdicts(played.records, {"alice-3"}) == {"invalid": 1}


def test_only_a_fraction_is_selected_and_trains(tmp_path: Path) -> None:
    sites = dict.fromkeys(STEP, 100)
    played = play(tmp_path / "h", sites, policy="fedavg:fraction=0.5", sessions=3)
    opened = played.of("round-opened")
    assert [len(fields["sites"]) for fields in opened] == [2, 2, 2]
    assert submissions(played.records) == 6
    counted = {(fields["round"], fields["site"]) for fields in played.of("counted")}
    assert counted == {(fields["round"], site) for fields in opened for site in fields["sites"]}


def test_the_gate_refuses_a_round_that_scores_worse(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 100, "alice-3": 100}
    played = play(tmp_path / "h", sites, attack=("alice-2", "sign-flip:2"), start=0.4, policy="fedavg", sessions=1)
    assert verdicts(played.records)["round-refused"] == 1 and not played.became
    free = play(tmp_path / "f", sites, attack=("alice-2", "sign-flip:2"), start=0.4, policy="fedavg", gate="off")
    assert free.values[0] == pytest.approx(0.4 + (0.125 - 2 * 0.25 + 0.0625) / 3, abs=1e-6)


def test_a_server_optimizer_keeps_its_state_between_rounds(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 10}, policy="fedavg:server=momentum", sessions=3, start=0.05)
    # Hsu et al. 2019, section 4: v = 0.9 v + step; w += v
    assert played.values == [pytest.approx(value, abs=1e-6) for value in (0.175, 0.4125, 0.75125)]
    assert len(played.of("round-accepted")[0]["state"]) == 1


# without rounds


def test_a_relay_passes_the_turn_and_starts_from_the_newest_release(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, schedule="relay")
    assert [model.site for _, model in played.became] == ["alice-1", "alice-2", "alice-1", "alice-2"]
    assert played.values == [0.225, 0.475, 0.6, 0.85]
    assert [clock for clock, _ in played.became] == [100, 400, 500, 800]


def test_in_a_relay_only_the_work_of_the_turn_counts(tmp_path: Path) -> None:
    with History(tmp_path / "h") as history:
        coordinator = Coordinator(history, SPEC, judge, lambda model, clock: None)
        terms = agree({**SETTINGS, "schedule": "relay"}, SPEC, "binary_crossentropy")
        coordinator.begin(terms, 1, weights(0.1), 0, ["alice-1", "alice-2"])
        release = coordinator.state.release
        assert release is not None
        claim = Local(0.5, 0.5)

        def receive(site: str) -> str:
            sent = Sent(site, 1, 1, 10, release, claim, weights(0.9))
            return str(coordinator.receive(sent, 1).fields["reason"])

        def report(site: str) -> Record:
            return coordinator.report(
                site, 1, release=release, claim=claim, session=1, epochs=1, checkpoints=1, examples=10
            )

        assert receive("alice-2") == report("alice-2").fields["reason"] == "it is alice-1's turn"
        assert receive("alice-1") == (
            "accuracy 0.9000 beats 0.1000; layer dense1 is 9 times as large as the current one; not tried, the "
            "coordinator has no images to train on"
        )
        assert report("alice-1").event == "report"
        assert receive("alice-1") == report("alice-1").fields["reason"]
        assert receive("alice-1") == "the turn of alice-1 is over; it is alice-2's turn"


def test_polyak_goes_half_way(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, schedule="relay", policy="polyak:0.5")
    assert played.values == [0.1625, 0.2875, 0.35, 0.475]
    first = played.of("accepted")[0]
    assert (first["share"], first["staleness"]) == (0.5, 0)
    assert first["candidate"]["sha256"] != first["model"]["sha256"]


def test_free_sites_arrive_in_the_order_of_their_clocks(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 250}, sessions=3, policy="merge", start=0.01)
    came = [(fields["site"], fields["staleness"]) for fields in played.of("accepted", "refused")]
    # alice-1 at 100, 200, 300; alice-2 at 250, 500, 750
    assert [site for site, _ in came] == ["alice-1", "alice-1", "alice-2", "alice-1", "alice-2", "alice-2"]
    assert came[2] == ("alice-2", 2)
    assert played.simulation.clock == 750


def test_sites_of_one_pace_judge_in_order_and_each_begins_after_its_own_verdict(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 100}, sessions=2, policy="polyak:0.5", start=0.2)
    assert [fields["staleness"] for fields in played.of("accepted")] == [0, 1, 1, 1]


def test_every_published_checkpoint_arrives_at_its_epoch(tmp_path: Path) -> None:
    trainers = Adders({"alice-1": 100}, epochs=2)
    played = play(tmp_path / "h", {"alice-1": 100}, trainers, sessions=1)
    assert [clock for clock, _ in played.became] == [100, 200]
    assert played.of("report")[0]["checkpoints"] == 2
    assert played.simulation.examples == 200


def test_a_candidate_that_cannot_be_scored_is_refused_with_the_reason(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100}, start=0.95, sessions=1)
    assert played.of("refused")[0]["reason"] == "the judge cannot do it: 1.0750000476837158 is no accuracy"


def test_perturbing_costs_no_time_and_under_a_ladder_no_score_is_told(tmp_path: Path) -> None:
    attack = ("alice-2", "perturb:0.1")
    played = play(
        tmp_path / "h", {"alice-1": 100, "alice-2": 100}, attack=attack, start=0.5, sessions=5, gate="ladder",
        margin=0.05,
    )  # fmt: skip
    tries = [fields for fields in played.of("accepted", "refused") if fields["site"] == "alice-2"]
    assert len(tries) == 5
    assert all(fields["metrics"] is None for fields in played.of("refused"))
    assert played.simulation.clock == 500
    assert len({fields["model"]["sha256"] for fields in tries}) > 1 or STEP["alice-2"]


@pytest.mark.parametrize("policy", ["best", "merge", "step", "gather", "fedasync", "fedavg", "fednova"])
def test_a_parameter_free_ladder_over_arrays_is_what_readers_recompute(tmp_path: Path, policy: str) -> None:
    sites = {"alice-1": 100, "alice-2": 130}
    gate: dict[str, Any] = {"gate": "parameter-free-ladder", "margin": 0.01}  # the default is none
    attack = ("alice-2", "perturb:0.1")
    played = play(tmp_path / "h", sites, attack=attack, start=0.4, sessions=3, policy=policy, **gate)
    held = Replay()
    for record in played.records:
        held.follow(record)
    assert played.records[0].fields["margin"] == 0
    accepted, refused = played.of("accepted", "round-accepted"), played.of("refused", "round-refused")
    assert accepted and all(PAIRED not in one["metrics"] for one in accepted)
    for one in accepted:
        assert one["metrics"]["accuracy"] - one["current_metrics"]["accuracy"] > one["margin"] > 0
    assert all(one["metrics"] is None and "margin" not in one for one in refused)


# the whole


@pytest.mark.parametrize("settings", [{"policy": "fedavg"}, {"policy": "merge"}, {"schedule": "relay"}])
def test_the_same_run_gives_the_same_bytes_whoever_is_first(tmp_path: Path, settings: dict[str, Any]) -> None:
    sites = {"alice-1": 100, "alice-2": 130, "alice-3": 100, "alice-4": 70}
    histories = set()
    for seed in range(3):
        play(tmp_path / f"{seed}", sites, LateAdders(sites, seed), start=0.01, **settings)
        histories.add((tmp_path / f"{seed}").read_bytes())
    assert len(histories) == 1


def test_the_history_is_a_chain_of_canonical_records(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, policy="fedavg")
    previous = START
    for number, record in enumerate(played.records, 1):
        assert (record.fields["sequence"], record.fields["previous"]) == (number, previous)
        previous = record.hash
    assert played.records[-1].event == "release" or played.of("finished")


@pytest.mark.parametrize("settings", [{"policy": "fedavg"}, {"schedule": "relay"}])
def test_the_clock_can_be_read_off_the_history(tmp_path: Path, settings: dict[str, Any]) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, start=0.01, **settings)
    found = moments(played.records, played.coordinator.model_bytes)
    assert [found[model.record.sequence].clock for _, model in played.became] == [clock for clock, _ in played.became]
    last = found[len(played.records)]
    assert (last.clock, last.examples) == (played.simulation.clock, played.simulation.examples)
    assert last.sent == submissions(played.records) * played.coordinator.model_bytes


def test_bytes_are_models_sent_and_releases_to_every_site(tmp_path: Path) -> None:
    played = play(tmp_path / "h", {"alice-1": 100, "alice-2": 300}, policy="fedavg", sessions=2)
    # Sent: 2 in each of 2 rounds. Brought in by 2 sites each: the first release, those of rounds 1 and 2, the last.
    assert len(played.of("release")) == 4
    assert played.simulation.bytes == played.coordinator.model_bytes * (4 + 2 * 4)


def test_every_session_has_the_control_of_its_release_and_the_newest_of_its_site(tmp_path: Path) -> None:
    """Steps of 0.125, 0.25 and 0.0625; the first site takes 200 and misses every round of 150, the others do not."""
    sites = {"alice-1": 100, "alice-2": 90, "alice-3": 120}
    settings: dict[str, Any] = {"pace": {"alice-1": 2}, "policy": "fedavg:deadline=0.15", "gate": "off", "sessions": 3}
    trainers = Controlled(sites)
    played = play(tmp_path / "h", sites, trainers, controls=trainers.controls, **settings)
    assert [clock for clock, _ in played.became] == [150, 300, 450]
    first, second = (0.25 + 0.0625) / 3, (0.125 + 0.5 + 0.125) / 3  # also of the update that came too late
    assert trainers.seen == {
        ("alice-1", 1): (0, 0), ("alice-2", 1): (0, 0), ("alice-3", 1): (0, 0),
        ("alice-1", 2): (0.125, pytest.approx(first)),  # begins at 200, from the release at 150
        ("alice-2", 2): (0.25, pytest.approx(first)), ("alice-3", 2): (0.0625, pytest.approx(first)),
        ("alice-1", 3): (0.25, second),  # begins at 400, when an update of this round is there
        ("alice-2", 3): (0.5, second), ("alice-3", 3): (0.125, second),
    }  # fmt: skip
    assert played.simulation.bytes == 2 * play(tmp_path / "without", sites, **settings).simulation.bytes


def test_what_each_site_trained_last_is_kept_as_it_was_before_forging(tmp_path: Path) -> None:
    sites = {"alice-1": 100, "alice-2": 100}
    played = play(tmp_path / "h", sites, attack=("alice-2", "nan"), policy="fedavg:deadline=1", sessions=1)
    assert float(played.simulation.last_trained["alice-2"]["output/bias"][0]) == pytest.approx(0.35)


def test_a_model_is_named_by_the_hash_of_the_file_that_it_would_be(tmp_path: Path) -> None:
    import hashlib

    first, model = weights(0.25), weights(0.75)
    with written(tmp_path, model) as path:
        data = path.read_bytes()
    expected = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    assert ModelFiles(first, SPEC).blob(model) == expected


def test_identifiers_have_the_form_of_real_ones() -> None:
    from fedssh.forms import check_id

    assert check_id(identifier(1)) != check_id(identifier(2))


def test_a_record_is_plain_json(tmp_path: Path) -> None:
    play(tmp_path / "h", {"alice-1": 100}, policy="fedavg", sessions=1)
    for line in (tmp_path / "h").read_bytes().splitlines():
        json.loads(json.loads(line)["record"])

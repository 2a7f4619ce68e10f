"""Alice with a real, small Keras model and few images; Bob's half of the exchange folder is played by hand."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import files, manifest, models
from fedssh.alice import memory, terms
from fedssh.alice.exchange import Exchange
from fedssh.alice.learner import Network
from fedssh.alice.limits import Limits
from fedssh.alice.own_rates import OwnRates
from fedssh.alice.replicas import Replicas
from fedssh.alice.train import Alice
from fedssh.errors import BundleError, SettingsError, UnreachableError, UntrustedError, WeightsError
from fedssh.keys import PrivateKey
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.rules.events import Local
from fedssh.rules.plan import read_plan
from fedssh.rules.terms import written_loss
from fedssh.weights import read_weights, write_weights
from tests.harness.images import easy_images
from tests.harness.releases import Coordinator, write_status
from tests.harness.waiting import until

SPEC: dict[str, Any] = models.check_spec({"name": "mlp", "input": [6, 6, 1], "classes": 2, "width": 16, "depth": 1})
PLAN: dict[str, Any] = {
    "batch_size": 16,
    "epochs": 4,
    "patience": 10,
    "optimizer": "adam",
    "learning_rate": 0.02,
    "loss": "auto",
    "metric": "accuracy",
}
LIMITS = Limits(max_learning_rate=1e38, max_epochs=100_000)  # what is tried here is absurd sometimes


class SmallSite:
    """Folders, images that are easy to tell apart, and releases on demand."""

    def __init__(self, folder: Path, key: PrivateKey) -> None:
        self.key = key
        self.state = folder / "alice"
        self.data = folder / "site.npz"
        self.exchange = Exchange(folder / "exchange")
        self.state.mkdir()
        self.exchange.tidy()
        datasets.save(self.data, {"train": easy_images(120)})

    def release(
        self,
        sequence: int,
        spec: dict[str, Any] = SPEC,
        plan: Mapping[str, Any] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        name: str = "test",
        schedule: str = "free",
        **federation: Any,
    ) -> Path:
        """Do what Bob does when a release arrives, and agree to its federation; returns the note."""
        model = self.exchange.incoming / f"{sequence:08}.safetensors"
        load_keras(1).utils.set_random_seed(1)  # random weights, but the same in every run
        tensors = weights if weights is not None else models.get_weights(models.build(spec))
        write_weights(model, tensors, spec)
        self.coordinator = Coordinator(self.key, spec, {**PLAN, **(plan or {})}, federation=name, schedule=schedule)
        self.agree()
        return self.coordinator.lay_out(self.exchange.incoming, sequence, federation=federation)

    def agree(self) -> None:
        """Accept what the coordinator offers."""
        terms.save_pin(self.state, terms.Pin(self.coordinator.hash))

    def terms(self) -> terms.Terms:
        """What is agreed."""
        return terms.read_terms(self.coordinator.genesis)

    def claims(self) -> list[manifest.Claim]:
        """The claims that lie there, oldest first."""
        beside = (path for path in self._notes() if path.with_suffix(".safetensors").exists())
        return [manifest.Claim.from_bytes(path.read_bytes()) for path in beside]

    def reports(self) -> list[manifest.SessionOver]:
        """The reports that lie there, oldest first."""
        alone = (path for path in self._notes() if not path.with_suffix(".safetensors").exists())
        return [manifest.SessionOver.from_bytes(path.read_bytes()) for path in alone]

    def _notes(self) -> list[Path]:
        return sorted(self.exchange.outgoing.glob("*.json"))


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, PrivateKey]) -> SmallSite:
    return SmallSite(tmp_path, keys["coordinator"])


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The events of one kind so far, as their fields and text."""
    logger = logging.getLogger("alice")
    before = logger.propagate
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="alice")

    def events(kind: str) -> list[dict[str, Any]]:
        found = [record.__dict__ for record in caplog.records if record.__dict__.get("event") == kind]
        return [{**record["fields"], "text": record["msg"] % record["args"]} for record in found]

    yield events
    logger.propagate = before


Told = Callable[[str], list[dict[str, Any]]]


def alice(site: SmallSite, stop: threading.Event | None = None, epochs: int | None = None, seed: int = 1) -> Alice:
    network = Network(site.data, seed, 1, None)
    return Alice(site.exchange, site.state, network, epochs, 0.0, stop or threading.Event(), LIMITS)


# a session


def test_a_session_publishes_what_improved_and_reports(site: SmallSite, told: Told) -> None:
    site.release(3)
    assert alice(site).run(sessions=1) == 1
    epochs, published = told("epoch"), told("published")
    assert [event["epoch"] for event in epochs] == [1, 2, 3, 4]
    assert published
    assert [event["epoch"] for event in published] == [event["epoch"] for event in epochs if event["improved"]]

    claims = site.claims()
    last = next(event for event in reversed(epochs) if event["improved"])
    assert claims[-1].metrics == Local(last["loss"], last["accuracy"])
    assert {(claim.builds_on, claim.session, claim.examples) for claim in claims} == {(3, 1, 102)}
    (report,) = site.reports()
    assert (report.session, report.epochs, report.checkpoints) == (1, 4, len(published))
    assert report.metrics == claims[-1].metrics
    assert report.id > claims[-1].id
    assert memory.load(site.state).trained.sessions == 1


def test_a_published_model_scores_what_its_claim_says(site: SmallSite) -> None:
    site.release(1)
    alice(site).run(sessions=1)
    claim = site.claims()[-1]
    model = site.exchange.outgoing / f"{claim.id}.safetensors"
    site.release(2, weights=read_weights(model, shapes()))
    received = site.exchange.newest(site.terms(), site.state)
    assert received is not None and claim.metrics is not None
    score = Network(site.data, 1, 1, None).adopt(received, read_plan(received.release.plan))
    assert score.loss == pytest.approx(claim.metrics.loss, rel=1e-5)
    assert score.accuracy == pytest.approx(claim.metrics.accuracy)


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in models.get_weights(models.build(SPEC)).items()}


def test_the_received_model_is_the_first_best(site: SmallSite, told: Told) -> None:
    """Training that makes the model worse publishes nothing, and says so in the report."""
    site.release(1)
    alice(site).run(sessions=1)
    good = site.exchange.outgoing / f"{site.claims()[-1].id}.safetensors"
    site.release(2, weights=read_weights(good, shapes()), plan={"optimizer": "sgd", "learning_rate": 50.0})
    before = len(site.claims())
    alice(site).run(sessions=1)
    assert len(site.claims()) == before
    assert site.reports()[-1].metrics is None
    assert site.reports()[-1].checkpoints == 0
    assert told("session-over")[-1]["text"].endswith("nothing improved on the release")


def test_the_same_seed_gives_the_same_session_also_after_a_restart(site: SmallSite, told: Told) -> None:
    site.release(1)
    alice(site).run(sessions=2)
    whole = [(event["session"], event["epoch"], event["loss"]) for event in told("epoch")]
    (site.state / "alice.json").unlink()
    alice(site).run(sessions=1)
    alice(site).run(sessions=1)
    assert [(event["session"], event["epoch"], event["loss"]) for event in told("epoch")][len(whole) :] == whole
    assert whole[0][2] != whole[4][2], "each session has an order of its own"


def test_early_stopping_ends_a_session(site: SmallSite, told: Told) -> None:
    site.release(1, plan={"epochs": 50, "patience": 1, "optimizer": "sgd", "learning_rate": 50.0})
    alice(site).run(sessions=1)
    (over,) = told("session-over")
    assert over["early"]
    assert over["epochs"] < 50


def test_epochs_can_be_overridden(site: SmallSite, told: Told) -> None:
    site.release(1)
    alice(site, epochs=2).run(sessions=1)
    assert len(told("epoch")) == 2


def test_one_model_object_serves_all_sessions_until_the_architecture_changes(site: SmallSite) -> None:
    site.release(1)
    trainer = alice(site)
    network = trainer.network
    assert isinstance(network, Network)
    trainer.run(sessions=1)
    first = network._trainer
    site.release(2)
    trainer.run(sessions=1)
    assert network._trainer is first
    site.release(3, spec=models.check_spec({**SPEC, "width": 5}))
    trainer.run(sessions=1)
    assert network._trainer is not first
    assert site.claims()[-1].builds_on == 3


SEVERAL_DEVICES = """
import sys, threading
from pathlib import Path
import tensorflow
cpu = tensorflow.config.list_physical_devices("CPU")[0]
tensorflow.config.set_logical_device_configuration(cpu, [tensorflow.config.LogicalDeviceConfiguration()] * 2)
from fedssh.alice import incoming, learner, terms
from fedssh.alice.exchange import Exchange
from fedssh.rules.plan import read_plan
from fedssh.alice.replicas import Replicas
learner._strategy = lambda: tensorflow.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = learner.Network(Path(sys.argv[1]), 1, 1, None)
state = Path(sys.argv[3])
pin = terms.load_pin(state)
folder = Path(sys.argv[2])
received = Exchange(folder).newest(terms.kept(pin, incoming.read_offer(folder / "incoming")), state)
plan = read_plan(received.release.plan)
before = found.adopt(received, plan)
ended = []
for session in (1, 2):
    found.adopt(received, plan)
    found.fit(session, plan, before, lambda epoch: ended.append(epoch) or True, threading.Event())
assert found._strategy.num_replicas_in_sync == 2
assert ended[-1].metrics.loss < before.loss, (before, ended)
assert len(found.weights()) == 4
counts = found._trainer.confusion(found._val)
assert counts.sum() == len(found._val)
assert abs(counts.trace() / counts.sum() - found._trainer.evaluate(found._val)[1]) < 1e-6
"""


def test_several_devices_train_together(site: SmallSite) -> None:
    """Two parts of the CPU stand in for two GPUs."""
    site.release(1)
    words = [sys.executable, "-c", SEVERAL_DEVICES, str(site.data), str(site.exchange.incoming.parent), str(site.state)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("what", "entry"),
    [
        ("proximal term", {"proximal": 0.1}),
        ("class weights", {"class_weights": "balanced"}),
        ("augmentation", {"augment": "flips"}),
        ("learning-rate schedule", {"learning_rate_schedule": "step"}),
        ("warm-up", {"warmup": 3}),
        ("mixed precision", {"precision": "mixed"}),
        ("calibrated loss", {"calibrate": "labels", "label_shares": [0.5, 0.5]}),
        ("learning without labels", {"unlabelled": "fixmatch"}),
    ],
)
def test_several_devices_say_what_they_cannot_train_with(what: str, entry: dict[str, Any]) -> None:
    class Two:
        num_replicas_in_sync = 2

    with pytest.raises(SettingsError, match=f"the plan's {what} needs one device, found 2 GPUs"):
        Replicas(Two(), SPEC, read_plan(written_loss({**PLAN, **entry}, "auto")), "binary_crossentropy")


# whole sessions and rounds

SESSION = {"publish": "session", "epochs": 3}


def published(site: SmallSite) -> list[bytes]:
    """The model files that lie there, oldest first."""
    return [(site.exchange.outgoing / f"{claim.id}.safetensors").read_bytes() for claim in site.claims()]


def in_round(number: int, *sites: str, of: int | None = None, **more: Any) -> dict[str, Any]:
    now = {"number": number, "sites": list(sites), "of": of}
    return {"schedule": "rounds", "turns": number, "round": now, "last": None, **more}


def test_a_whole_session_is_published_once_although_nothing_improved(site: SmallSite, told: Told) -> None:
    site.release(1, plan={**SESSION, "optimizer": "sgd", "learning_rate": 4.0, "patience": 1})
    alice(site).run(sessions=1)
    assert [event["epoch"] for event in told("epoch")] == [1, 2, 3]
    assert not told("epoch")[-1]["improved"], "the test needs a session that gets worse"
    (claim,), (report,) = site.claims(), site.reports()
    assert (claim.session, claim.epoch) == (1, 3)
    assert claim.metrics == Local(told("epoch")[-1]["loss"], told("epoch")[-1]["accuracy"])
    assert (report.epochs, report.checkpoints, report.metrics) == (3, 1, claim.metrics)
    assert report.id > claim.id
    assert "images, 3 epochs" in told("session")[0]["text"]
    assert "1 checkpoint, loss" in told("session-over")[0]["text"]


def test_a_site_may_train_another_number_of_epochs(site: SmallSite) -> None:
    site.release(1, plan=SESSION)
    alice(site, epochs=2).run(sessions=1)
    assert [claim.epoch for claim in site.claims()] == [2]


def test_a_site_may_train_at_a_lower_rate_where_that_is_agreed(site: SmallSite, told: Told) -> None:
    site.release(1, plan=written_loss({"site_rates": 0.5, "epochs": 1}, "auto"))
    lower = alice(site)
    lower.rates = OwnRates(0.5, 8)
    lower.run(sessions=1)
    (said,) = told("own-rates")
    assert (said["learning_rate"], said["batch"]) == (PLAN["learning_rate"] / 2, 8)
    lower.rates = OwnRates(0.25)
    with pytest.raises(SettingsError, match=r"the federation allows 0\.5\.\.1"):
        lower.run(sessions=1)


def test_a_calibrated_loss_is_told_once_and_is_in_no_claim(site: SmallSite, told: Told) -> None:
    plan = {**SESSION, "calibrate": "labels", "label_shares": [0.1, 0.9], "epochs": 1}
    site.release(1, plan=written_loss(plan, "auto"), sessions=2)
    said: list[str] = []
    trained = Network(site.data, 1, 1, None, tell=said.append)
    Alice(site.exchange, site.state, trained, None, 0.0, threading.Event(), LIMITS).run(sessions=2)
    assert len(told("session")) == 2
    (line,) = (one for one in said if "calibrated" in one)
    assert (
        line == "the training loss is calibrated for the labels here: the logit of class 1 is moved by -2.20; "
        "scores stay plain"
    )
    plain = Network(site.data, 1, 1, None)
    site.release(2, weights=trained.weights())
    received = Alice(site.exchange, site.state, plain, None, 0.0, threading.Event(), LIMITS)._look()
    assert received is not None
    score = plain.adopt(received, read_plan(PLAN))
    (*_, last) = site.claims()
    assert last.metrics is not None and score.loss == pytest.approx(last.metrics.loss, rel=1e-5)
    rows = terms.rows(site.terms())
    assert "plan: calibrate" not in rows
    site.release(3, plan=written_loss(plan, "auto"))
    rows = terms.rows(site.terms())
    assert (rows["plan: calibrate"], rows["plan: label_shares"]) == ("labels", "0.1, 0.9")


def test_weights_that_are_not_finite_are_never_published(site: SmallSite, told: Told) -> None:
    site.release(1, plan={**SESSION, "optimizer": "sgd", "learning_rate": 1e38})
    alice(site).run(sessions=1)
    assert not site.claims()
    assert told("diverged")[0]["text"] == "session 1 epoch 3 is not published: its weights or scores are not finite"
    assert told("session-over")[0]["text"].endswith("nothing was published")
    (report,) = site.reports()
    assert (report.checkpoints, report.metrics) == (0, None)


def test_a_whole_session_waits_for_room_on_the_disk(
    site: SmallSite, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedssh.alice.train.RETRY_SECONDS", 0.01)
    site.release(1, plan=SESSION)
    real, calls = files.write_whole, []

    def twice_full(path: Path, content: bytes, mode: int = 0o600) -> None:
        calls.append(path)
        if len(calls) <= 2:
            raise OSError(28, "No space left on device")
        real(path, content, mode)

    monkeypatch.setattr("fedssh.alice.exchange.write_whole", twice_full)
    alice(site).run(sessions=1)
    assert len(told("not-published")) == 2
    assert len(site.claims()) == 1


def test_a_round_that_was_interrupted_is_trained_again_to_the_same_weights(
    site: SmallSite, tmp_path: Path, told: Told
) -> None:
    site.release(1, plan=SESSION, **in_round(1, "alice-1", "alice-2"))
    stop = threading.Event()
    interrupted = alice(site, stop)
    say = interrupted._say

    def stopping(event: str, *arguments: Any, **fields: Any) -> None:
        say(event, *arguments, **fields)
        if event == "epoch":
            stop.set()

    interrupted._say = stopping  # type: ignore[method-assign]
    assert interrupted.run(sessions=1) == 0
    assert told("stopped")
    assert not site.claims()
    alice(site).run(sessions=1)

    (tmp_path / "undisturbed").mkdir()
    other = SmallSite(tmp_path / "undisturbed", site.key)
    other.release(1, plan=SESSION, **in_round(1, "alice-1", "alice-2"))
    alice(other).run(sessions=1)
    assert published(site) == published(other)
    assert len(published(site)) == 1


def test_rounds_are_trained_once_each_and_others_are_waited_out(site: SmallSite, told: Told) -> None:
    last = {"round": 1, "event": "round-refused", "reason": "accuracy 0.51 is less than 0.53"}
    site.release(1, plan=SESSION, **in_round(1, "alice-1", "alice-2"))
    stop = threading.Event()
    thread = threading.Thread(target=alice(site, stop).run)
    thread.start()
    try:
        until(lambda: told("session-over"), 20)
        until(lambda: told("waiting"), 20)
        assert told("waiting")[-1]["text"] == "waiting for round 2; in this one we have trained, alice-2 too"
        site.release(2, plan=SESSION, **in_round(2, "alice-2", "alice-3", last=last))
        until(lambda: len(told("waiting")) == 2, 20)
        assert told("waiting")[-1]["text"] == "waiting for round 3; alice-2 and alice-3 train in this one"
        site.release(3, plan=SESSION, **in_round(2, "alice-2", "alice-3", last=last))  # such as after a new site
        site.release(4, plan=SESSION, **in_round(3, "alice-1", last=last))
        until(lambda: len(told("session-over")) == 2, 20)
        assert [event["builds_on"] for event in told("session")] == [1, 4]
        assert [event["text"] for event in told("last-round")] == [
            "round 1 was refused: accuracy 0.51 is less than 0.53"
        ]
        site.release(5, plan=SESSION, **in_round(3, "alice-1", round=None, state="finished"))
        thread.join(20)
        assert told("finished")[0]["text"] == "the federation is finished; 2 sessions trained here"
    finally:
        stop.set()
        thread.join()


def test_a_round_extended_to_this_site_is_trained(site: SmallSite, told: Told) -> None:
    site.release(1, plan=SESSION, **in_round(1, "alice-2"))
    threading.Timer(0.5, lambda: site.release(2, plan=SESSION, **in_round(1, "alice-1", "alice-2"))).start()
    assert alice(site).run(sessions=1) == 1
    assert [event["builds_on"] for event in told("session")] == [2]


def moved(site: SmallSite) -> float:
    """How far the published weights are from those of the release."""
    model = site.exchange.outgoing / f"{site.claims()[-1].id}.safetensors"
    before = read_weights(site.exchange.incoming / "00000001.safetensors", shapes())
    after = read_weights(model, shapes())
    return max(float(np.abs(after[name] - before[name]).max()) for name in after)


def test_a_proximal_plan_stays_near_its_release(site: SmallSite, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    free = SmallSite(tmp_path / "free", site.key)
    plan = {**SESSION, "epochs": 10, "optimizer": "sgd", "learning_rate": 0.01}
    free.release(1, plan=plan)
    alice(free).run(sessions=1)
    site.release(1, plan={**plan, "proximal": 100.0})
    alice(site).run(sessions=1)
    assert 0 < moved(site) < moved(free) / 5


def test_momentum_is_that_of_the_plan(site: SmallSite, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = SmallSite(tmp_path / "plain", site.key)
    plan = {**SESSION, "optimizer": "sgd", "learning_rate": 0.01}
    plain.release(1, plan=plan)
    alice(plain).run(sessions=1)
    site.release(1, plan={**plan, "momentum": 0.9})
    alice(site).run(sessions=1)
    assert moved(site) > 2 * moved(plain)


def test_nothing_is_held_out_when_asked(site: SmallSite) -> None:
    site.release(1, plan=SESSION)
    network = Network(site.data, 1, 1, None, validation=0.0)
    Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), LIMITS).run(sessions=1)
    assert (network.examples, network.validation_examples) == (120, 120)
    assert site.claims()[0].examples == 120


@pytest.mark.parametrize(("share", "kept"), [(0.15, 102), (0.5, 60)])
def test_a_share_is_held_out(site: SmallSite, share: float, kept: int) -> None:
    site.release(1, plan={**SESSION, "epochs": 1})
    network = Network(site.data, 1, 1, None, validation=share)
    Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), LIMITS).run(sessions=1)
    assert (network.examples, network.validation_examples) == (kept, 120 - kept)


def test_a_share_that_leaves_nothing_is_refused(site: SmallSite) -> None:
    with pytest.raises(SettingsError, match="--validation is 1, expected at least 0 and less than 1"):
        Network(site.data, 1, 1, None, validation=1.0)


SIMULATED = """
import hashlib, json, sys
from pathlib import Path
from fedssh.models.backend import load_keras
load_keras(threads=1, computations=2)
from fedssh.alice.fitting import fit, new_trainer
from fedssh.rules.plan import read_plan
from fedssh.alice.replicas import Replicas
from fedssh.alice.session import session_seed
from fedssh.weights import read_header, read_weights, write_weights
from fedssh.models.data import images
from fedssh.models.pool import Pool
from fedssh.models.training import resident
model, data, out, seed = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[4]), 1
plan = read_plan(json.loads(sys.argv[3]))
header = read_header(model)
spec = header.spec
every = images.load(data, spec["input"], spec["classes"], "train")
kept, _ = images.hold_out(every.labels, 0.15, seed, every.patients)
train = resident(every.take(kept))
def job(trainer):
    trainer.load(read_weights(model, {name: tuple(a.shape) for name, a in trainer.weights().items()}))
    found = []
    fit(trainer, train, None, plan, session_seed(seed, 1), None, lambda e: found.append(trainer.weights()) or True)
    return found[-1]
with Pool(lambda: new_trainer(spec, plan), 2) as pool:
    for number, weights in enumerate(pool.run([job] * 4)):
        write_weights(out / f"{number}.safetensors", weights, spec)
"""


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        (SPEC, {"optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.2, "proximal": 0.5}),
        ({"name": "cnn", "input": [10, 10, 1], "classes": 2, "depth": 4}, {}),
        ({"name": "squeezenet", "input": [32, 32, 3], "classes": 2, "trained": 2}, {"learning_rate": 0.001}),
    ],
    ids=["sgd", "adam", "dropout"],
)
def test_a_simulation_gives_the_weights_of_a_site_bit_for_bit(
    site: SmallSite, tmp_path: Path, spec: dict[str, Any], plan: dict[str, Any]
) -> None:
    """Two trainings at a time in one process, against the command with one thread."""
    datasets.save(site.data, {"train": easy_images(120, size=spec["input"][0])})
    note = site.release(1, spec=models.check_spec(spec), plan={**SESSION, **plan})
    release = json.loads(note.read_bytes())["manifest"]
    words = command(site, "train", f"--data={site.data}", "--threads=1", "--sessions=1")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given = [note.with_suffix(".safetensors"), site.data, json.dumps(release["plan"]), tmp_path]
    simulated = [sys.executable, "-c", SIMULATED, *map(str, given)]
    done = subprocess.run(simulated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (of_site,) = published(site)
    assert [(tmp_path / f"{number}.safetensors").read_bytes() for number in range(4)] == [of_site] * 4


# which release


def test_the_next_session_starts_from_the_newest_release(site: SmallSite, told: Told) -> None:
    site.release(1)
    trainer = alice(site)
    trainer.run(sessions=1)
    site.release(5)
    site.release(12)
    trainer.run(sessions=1)
    assert [event["builds_on"] for event in told("session")] == [1, 12]


def test_a_verdict_on_its_way_is_awaited(site: SmallSite, told: Told) -> None:
    site.release(1)
    trainer = alice(site)
    trainer.settle_seconds = 10

    def judge() -> None:
        until(site.reports, 20)
        site.release(2)

    late = threading.Thread(target=judge)
    late.start()
    trainer.run(sessions=2)
    late.join()
    assert told("published")
    assert [event["builds_on"] for event in told("session")] == [1, 2]


def test_no_release_in_time_is_said(site: SmallSite) -> None:
    terms.save_pin(site.state, terms.Pin("0" * 64))
    with pytest.raises(UnreachableError, match=r"no release came into .*incoming in 0.3 s"):
        alice(site).run(wait_seconds=0.3)


def test_a_finished_federation_ends_alice_once_the_door_says_that_nothing_is_newer(site: SmallSite, told: Told) -> None:
    site.release(4, state="finished")
    write_status(site.exchange.incoming, newest=4, confirmed="2026-01-31T12:00:00.123Z")  # before she began
    trainer = alice(site)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    until(lambda: told("waiting"), 20)
    assert told("waiting")[0]["text"].startswith(
        "release 4 leaves nothing to train; waiting until the coordinator says"
    )
    write_status(site.exchange.incoming, newest=3, confirmed=manifest.now())
    time.sleep(0.5)
    assert thread.is_alive() and not told("finished")
    write_status(site.exchange.incoming, newest=4, confirmed=manifest.now())
    thread.join(timeout=10)
    assert told("finished")[0]["text"] == "the federation is finished; 0 sessions trained here"


def test_a_finished_release_from_yesterday_is_not_the_last_word(site: SmallSite, told: Told) -> None:
    site.release(4, state="finished")
    threading.Timer(0.5, lambda: site.release(5, sessions=1)).start()
    assert alice(site).run() == 1
    assert [event["builds_on"] for event in told("session")] == [5]
    assert told("finished")[0]["text"] == "all 1 session trained"


def test_in_relay_alice_trains_in_her_turn_only_and_once(site: SmallSite, told: Told) -> None:
    site.release(1, schedule="relay", turn="alice-2", turns=0)
    stop = threading.Event()
    trainer = alice(site, stop)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    try:
        until(lambda: told("waiting"), 20)
        assert "it is alice-2's" in told("waiting")[0]["text"]
        site.release(2, schedule="relay", turn="alice-1", turns=1)
        until(lambda: told("session-over"), 20)
        # Made from our own checkpoint, before the coordinator heard that our session is over.
        site.release(3, schedule="relay", turn="alice-1", turns=1)
        time.sleep(0.6)
        assert len(told("session")) == 1
        site.release(7, schedule="relay", turn="alice-1", turns=3)
        until(lambda: len(told("session-over")) == 2, 20)
        assert [event["builds_on"] for event in told("session")] == [2, 7]
    finally:
        stop.set()
        thread.join()


def test_another_federation_counts_from_one(site: SmallSite, told: Told) -> None:
    site.release(1)
    alice(site).run(sessions=1)
    site.release(2, name="another")
    alice(site).run(sessions=1)
    assert [event["session"] for event in told("session")] == [1, 1]


# what cannot be trusted or used


def test_tensors_of_another_architecture_are_refused(site: SmallSite) -> None:
    weights = models.get_weights(models.build(SPEC))
    site.release(1, weights={**weights, "evil": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match="'evil' does not belong to the architecture"):
        alice(site).run(sessions=1)


HUGE = models.check_spec({**SPEC, "width": 65_536, "depth": 64})


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            Limits(),
            r"a network of 270,\d{3},\d{3},\d{3} weights, this site allows at most 100,000,000 \(--max-weights\)",
        ),
        (Limits(max_weights=10**12), r"the tensor dense1/bias is missing"),
    ],
)
def test_a_small_file_of_a_huge_network_builds_nothing(site: SmallSite, limits: Limits, words: str) -> None:
    """A release of a few hundred bytes whose spec asks for a terabyte."""
    model = site.release(1, spec=HUGE, weights={"a": np.zeros(3, np.float32)}).with_suffix(".safetensors")
    assert model.stat().st_size < 400
    trainer = Alice(site.exchange, site.state, Network(site.data, 1, 1, None), None, 0.0, threading.Event(), limits)
    with pytest.raises(UntrustedError, match=words):
        trainer.run(sessions=1)


def test_a_release_that_changes_the_plan_midway_trains_and_publishes_nothing(site: SmallSite, told: Told) -> None:
    """Signed by the coordinator herself: the terms change only when a person at the site accepts."""
    site.release(1)
    trainer = alice(site)
    trainer.run(sessions=1)
    before = sorted(path.name for path in site.exchange.outgoing.iterdir())
    agreed = site.coordinator
    site.release(2, plan={"batch_size": 102, "optimizer": "sgd"})
    site.coordinator, offered = agreed, site.coordinator
    site.agree()
    with pytest.raises(UntrustedError, match="bob brought the genesis"):
        trainer.run(sessions=1)
    agreed.lay_out(site.exchange.incoming, 2, plan=offered.agreed["plan"])
    with pytest.raises(BundleError, match="'plan' of release 2 is not what record 1 says was agreed"):
        trainer.run(sessions=1)
    assert sorted(path.name for path in site.exchange.outgoing.iterdir()) == before
    assert len(told("session")) == 1
    site.release(2, plan={"batch_size": 102, "optimizer": "sgd"})  # which agrees to it
    trainer.run(sessions=1)
    assert len(told("session")) == 2


def test_what_this_site_keeps_back_is_said(site: SmallSite, told: Told) -> None:
    site.release(1, plan={**SESSION, "batch_size": 102, "epochs": 1})
    alice(site).run(sessions=1)
    assert told("kept-back")[0]["text"].startswith("session 1 epoch 1 is not published: 1 of the 2 steps that a model")
    assert not site.claims() and site.reports()[0].checkpoints == 0
    assert told("session-over")[0]["text"].endswith("nothing was published")


def test_a_site_has_a_last_session_of_its_own(site: SmallSite, told: Told) -> None:
    site.release(1, plan={"epochs": 1})
    trainer = Alice(
        site.exchange, site.state, Network(site.data, 1, 1, None), None, 0.0, threading.Event(), Limits(max_sessions=2)
    )
    assert trainer.run() == 2
    assert told("finished")[0]["text"] == "this site's limit of 2 sessions is reached (--max-sessions)"


def test_a_revoked_site_ends_its_session_and_says_why(site: SmallSite, told: Told) -> None:
    site.release(1, plan={"epochs": 3})
    trainer = alice(site)
    real, since = trainer._epoch_over, manifest.now()

    def revoked_meanwhile(received: Any, tally: Any, epoch: Any) -> bool:
        reason = "door:22 answered release: alice-1 is not enrolled with this key any more"
        write_status(site.exchange.incoming, newest=1, refused_since=since, reason=reason)
        return real(received, tally, epoch)

    trainer._epoch_over = revoked_meanwhile  # type: ignore[method-assign]
    assert trainer.run() == 1
    during, after = (event["text"] for event in told("shut-out"))
    assert during.endswith("alice-1 is not enrolled with this key any more; this session goes on to its end")
    assert after.endswith("any more; 1 session trained here") and site.reports()


def test_an_architecture_that_is_not_installed_here_is_named(site: SmallSite) -> None:
    site.release(1, spec={**SPEC, "name": "nonesuch"}, weights={"a": np.zeros(3, np.float32)})
    with pytest.raises(SettingsError, match="this site cannot build the network: no architecture is called 'nonesuch'"):
        alice(site).run(sessions=1)


def test_images_that_do_not_suit_the_network_are_named(site: SmallSite) -> None:
    split = easy_images(40)
    datasets.save(site.data, {"train": Images(split.images, split.labels + 1)})
    site.release(1)
    with pytest.raises(SettingsError, match=r"train_labels has the label 2 \(20 such\), expected 0..1"):
        alice(site).run(sessions=1)


def test_data_that_is_not_there_is_named_before_keras_loads(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere does not exist"):
        Network(tmp_path / "nowhere", 1, 1, None)


# disk and kills


def test_old_checkpoints_that_bob_has_not_taken_are_pruned(site: SmallSite) -> None:
    tensors = models.get_weights(models.build(SPEC))
    for session, number in ((1, 3), (2, 3), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)):
        for epoch in range(number):
            publish(site, tensors, session, epoch)
    left = [(claim.session, claim.epoch) for claim in site.claims()]
    assert left == [(2, 1), (2, 2), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0)]
    assert len(list(site.exchange.outgoing.iterdir())) == 2 * len(left)


def publish(site: SmallSite, tensors: Mapping[str, np.ndarray], session: int, epoch: int) -> None:
    architecture = manifest_architecture()
    time.sleep(0.002)  # an id sorts by its millisecond
    times: dict[str, Any] = {"started": manifest.now(), "created": manifest.now()}
    metrics = Local(0.5, 0.5)
    claim = manifest.Claim(manifest.new_id(), architecture, 1, session, epoch, 10, metrics, **times)
    site.exchange.publish(claim, tensors, SPEC)


def manifest_architecture() -> str:
    from fedssh.weights import architecture_hash

    return architecture_hash(SPEC)


def test_a_full_disk_costs_a_checkpoint_not_the_session(
    site: SmallSite, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the first checkpoint's claim fails; training goes on and the next improvement is published."""
    site.release(1, plan={"epochs": 8})
    real, calls = files.write_whole, []

    def once_full(path: Path, content: bytes, mode: int = 0o600) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(path, content, mode)

    monkeypatch.setattr("fedssh.alice.exchange.write_whole", once_full)
    alice(site).run(sessions=1)
    assert "No space left" in told("not-published")[0]["text"]
    assert told("published")
    names = {path.stem for path in site.exchange.outgoing.glob("*.safetensors")}
    assert names == {claim.id for claim in site.claims()}, "nothing is left of the one that failed"


def test_what_a_killed_alice_left_is_swept(site: SmallSite) -> None:
    (site.exchange.outgoing / ".x.safetensors.0a0b0c0d.part").write_bytes(b"half")
    (site.exchange.outgoing / "orphan.safetensors").write_bytes(b"no claim")
    site.exchange.tidy()
    assert not list(site.exchange.outgoing.iterdir())


@pytest.mark.parametrize("step", ["remembered", "reported", "counted"])
def test_a_kill_at_the_end_of_a_session_neither_loses_nor_doubles_it(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def killed_after(function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if when(*arguments):
                raise Killed
            return result

        return call

    site.release(1)
    trainer = alice(site)
    with monkeypatch.context() as patch:
        if step == "reported":
            patch.setattr(trainer.exchange, "report", killed_after(trainer.exchange.report, lambda report: True))
        elif step == "remembered":
            patch.setattr(memory, "save", killed_after(memory.save, lambda state, known: known.over is not None))
        else:
            patch.setattr(memory, "save", killed_after(memory.save, lambda state, known: known.trained.sessions == 1))
        with pytest.raises(Killed):
            trainer.run(sessions=1)
    alice(site).run(sessions=0)
    assert memory.load(site.state).trained.sessions == 1
    assert [report.session for report in site.reports()] == [1]


def test_two_alices_do_not_share_a_state(site: SmallSite) -> None:
    expected = pytest.raises(SettingsError, match="another alice works in")
    with memory.alone(site.state), expected, memory.alone(site.state):
        pass


# the command


def command(site: SmallSite, *words: str) -> list[str]:
    program = "from fedssh.alice.cli import main; main()"
    folders = [f"--exchange={site.exchange.incoming.parent}", f"--state={site.state}"]
    return [sys.executable, "-c", program, "--log-format=json", words[0], *folders, *words[1:]]


def test_the_command_stops_within_a_batch_and_starts_the_session_again(site: SmallSite) -> None:
    site.release(1, plan={"epochs": 100_000, "patience": 100_000})
    words = command(site, "train", f"--data={site.data}", "--threads=1", "--max-epochs=100000")
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    for line in process.stderr:
        if '"event": "epoch"' in line:
            break
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=20)[1]
    assert process.returncode == 0, rest
    assert time.monotonic() - start < 5
    events = [json.loads(line) for line in rest.splitlines()]
    assert events[-1]["event"] == "stopped"
    assert memory.load(site.state).trained.sessions == 0
    assert not site.reports()
    assert list((site.state / "logs" / "session-0001" / "train").iterdir()), "TensorBoard logs are written"

    site.release(2)
    done = subprocess.run([*words, "--sessions=1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [(report.session, report.builds_on) for report in site.reports()] == [(1, 2)]

    write_status(site.exchange.incoming, newest=2, confirmed="2026-01-31T12:00:00.123Z")
    shown = subprocess.run(command(site, "status", "--json"), capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == {
        "federation": "test", "agreed": site.coordinator.hash, "sessions": 1, "release": 2, "taken": 2,
        "confirmed": "2026-01-31T12:00:00.123Z", "refused_since": None, "reason": None, "waiting": len(site.claims()),
    }  # fmt: skip


def test_bad_data_is_one_line_with_exit_code_2(site: SmallSite) -> None:
    site.data.write_bytes(b"not an npz")
    terms.save_pin(site.state, terms.Pin("0" * 64))
    done = subprocess.run(command(site, "train", f"--data={site.data}"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is no readable .npz file of arrays" in done.stderr
    assert "Traceback" not in done.stderr


# what must not leave


def imprint(width: int) -> dict[str, np.ndarray]:
    """Every unit holds an image's mean brightness against a bound of its own (Fowl et al. 2022, section 4)."""
    bounds = np.linspace(0.2, 0.8, width, dtype=np.float32)
    return {
        "dense1/kernel": np.full((36, width), 1e-3 / 36, np.float32),
        "dense1/bias": -1e-3 * bounds,
        "output/kernel": np.full((width, 1), 0.1, np.float32),
        "output/bias": np.zeros(1, np.float32),
    }


def test_nothing_is_trained_from_a_release_that_singles_out_images(site: SmallSite, told: Told) -> None:
    spec = models.check_spec({**SPEC, "width": 2000, "depth": 1})
    site.release(1, spec=spec, weights=imprint(2000), plan={**SESSION, "batch_size": 1024})
    with pytest.raises(
        UntrustedError, match=r"release 1 is not trained from: units of its layer dense1 tell \d+ of 102"
    ):
        alice(site).run(sessions=1)
    assert not site.claims() and not told("epoch")
    (report,) = site.reports()
    assert (report.epochs, report.checkpoints, report.metrics) == (0, 0, None), "so a round waits for nothing"


def test_an_absurd_model_is_not_published_and_the_report_says_so(site: SmallSite, told: Told) -> None:
    site.release(1, plan={**SESSION, "epochs": 2, "batch_size": 1024, "optimizer": "sgd", "learning_rate": 1e6})
    alice(site).run(sessions=1)
    assert not site.claims()
    (kept,) = told("kept-back")
    assert "session 1 epoch 2 is not published: its loss of" in kept["text"]
    assert "is more than 10 times that of guessing, 0.6931" in kept["reason"]
    (report,) = site.reports()
    assert (report.epochs, report.checkpoints) == (2, 0)
    assert told("session-over")[-1]["text"].endswith("nothing was published")

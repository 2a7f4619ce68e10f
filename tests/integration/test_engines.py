"""Both engines with real networks: the same weights for the same seed, and what only one of them can do."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.definition.attack import read_attack
from experiments.definition.config import HISTORY, Outcome, Point, Prepared, Run
from experiments.engines.memory import engine as memory
from experiments.engines.memory.history import read_history
from experiments.engines.ssh import engine as ssh
from fedssh.charity.judge import scorer
from fedssh.errors import SettingsError
from fedssh.history.contributions import contributions
from fedssh.models import check_spec, get_weights, set_weights
from fedssh.models.data.images import Images
from fedssh.rules.events import Record
from fedssh.rules.policies import read_policy
from tests.harness.sites import processes_of

PLAN = {
    "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.5, "batch_size": 16, "epochs": 2, "patience": 3,
    "publish": "session", "proximal": 0.0, "loss": "auto",
}  # fmt: skip
SPEC = check_spec({"name": "mlp", "width": 8, "depth": 1, "input": [8, 8, 1], "classes": 3})
VERDICTS = ("genesis", "accepted", "refused", "counted", "round-accepted", "round-refused")
# What differs from run to run with real agents, or is not there in memory.
CHANCE = ("time", "previous", "sequence", "submission", "against", "builds_on", "updates")


def pictures(number: int, seed: int) -> Images:
    """Noise with a bright bar, whose place is the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, number)
    pixels = random.random((number, 8, 8, 1), dtype=np.float32) * np.float32(0.6)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 2] += np.float32(0.4)
    return Images(pixels, labels.astype(np.int64))


def a_run(policy: str = "fedavg", schedule: str = "rounds", sites: int = 3, **changes: Any) -> Run:
    run = Run(
        experiment="test", slug="test", seed=3, architecture={"name": "mlp", "width": 8, "depth": 1}, sites=sites,
        schedule=schedule, policy=read_policy(policy).text, gate="on", margin=0.05, metric="accuracy", sessions=2,
        plan=PLAN, validation=0.2, attack=None, straggler=1.0, score_sites=False, data={},
    )  # fmt: skip
    return dataclasses.replace(run, **changes)


def images_of(run: Run, train: bool = True) -> Prepared:
    parts = {name: pictures(60 + 10 * number, 10 + number) for number, name in enumerate(run.site_names)}
    others = {run.site_names[0]: pictures(50, 20).images} if "unlabelled" in run.plan else {}
    own = pictures(60, 1) if train else None
    return Prepared(SPEC, own, pictures(80, 2), pictures(90, 3), parts, unlabelled=others)


def done(engine: Any, run: Run, folder: Path, cores: int = 1, train: bool = True) -> Outcome:
    folder.mkdir()
    outcome: Outcome = engine.run(run, images_of(run, train), folder, lambda share, text: None, cores)
    return outcome


def told(folder: Path, *sites: str) -> list[dict[str, Any]]:
    """What every verdict says, without what is chance; a site's in its own order when sites are named."""
    records: list[Record] = [record for record in read_history(folder / HISTORY) if record.event in VERDICTS]
    fields = [{name: value for name, value in record.fields.items() if name not in CHANCE} for record in records]
    for one in fields:
        if "work" in one:
            one["work"] = {name: value for name, value in one["work"].items() if name != "seconds"}
    return [one for one in fields if not sites or one.get("site") in sites]


def models(folder: Path) -> list[str]:
    """The hashes of the models that were current, in order."""
    records = read_history(folder / HISTORY)
    events = ("genesis", "accepted", "round-accepted")
    return [record.fields["model"]["sha256"] for record in records if record.event in events]


# the same weights


@pytest.mark.parametrize(
    ("policy", "schedule", "sites", "train"),
    [
        ("fedavg", "rounds", 3, True),
        ("fedavg:seal=masks,groups=2,cap=100", "rounds", 6, True),
        ("polyak:0.5", "relay", 2, True),
        ("merge", "relay", 2, False),
        ("gather", "relay", 2, True),
        ("split:dense1", "relay", 2, True),
        ("splitfed:dense1,wire=f32", "rounds", 2, False),
    ],
)
def test_memory_gives_the_weights_of_real_agents(
    tmp_path: Path, policy: str, schedule: str, sites: int, train: bool
) -> None:
    calibrated = {"calibrate": "labels"} if policy == "gather" else {}
    run = a_run(policy, schedule, sites, plan={**PLAN, **calibrated})
    here, there = tmp_path / "memory", tmp_path / "ssh"
    simulated, real = done(memory, run, here, train=train), done(ssh, run, there, train=train)
    assert models(here) == models(there)
    assert len(models(here)) > 1, "nothing was accepted, so nothing was compared"
    assert [point.test for point in simulated.points] == [point.test for point in real.points]
    assert [point.holdout for point in simulated.points] == [point.holdout for point in real.points]
    assert (simulated.clock, simulated.submissions, simulated.verdicts) == (real.clock, real.submissions, real.verdicts)
    assert [(point.clock, point.examples) for point in simulated.points] == [
        (point.clock, point.examples) for point in real.points
    ]
    if schedule == "relay":  # in rounds the order in which sites are counted is chance
        both = [_without_agents(told(folder)) for folder in (here, there)]
        assert both[0] == both[1]
        assert simulated.bytes == real.bytes
        assert [("label_shares" in one["plan"]) for one in both[0] if "plan" in one] == [bool(calibrated)]


def test_memory_gives_the_weights_of_real_agents_with_all_that_a_plan_may_have(tmp_path: Path) -> None:
    more = {
        "class_weights": "balanced", "learning_rate_schedule": "cosine", "warmup": "1 epochs", "clip_norm": 1.0,
        "weight_decay": 0.01, "augment": "flips,shifts,rotations,contrast",
        "unlabelled": "fixmatch:threshold=0.5,weight=1,ratio=2,decay=0.5",
    }  # fmt: skip
    run = a_run(
        plan={**PLAN, **more, "metric": "balanced_accuracy"}, metric="balanced_accuracy", evidence="on", gate="off"
    )
    here, there = tmp_path / "memory", tmp_path / "ssh"
    simulated, real = done(memory, run, here), done(ssh, run, there)
    assert models(here) == models(there)
    assert len(models(here)) > 1
    assert [point.test for point in simulated.points] == [point.test for point in real.points]
    assert evidence(here) == evidence(there)
    assert len(evidence(here)) == 2 * 3 and all(length > 0 for _, length, _ in evidence(here))
    done(memory, a_run(), tmp_path / "plain")
    assert not set(models(here)) & set(models(tmp_path / "plain"))


def evidence(folder: Path) -> list[tuple[str, float, float]]:
    """Site, length and cosine of every update."""
    closed = [record.fields for record in read_history(folder / HISTORY) if record.event == "round-accepted"]
    return [(part["site"], part["length"], part["cosine"]) for one in closed for part in one["updates"]]


def _without_agents(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    only_real = ("coordinator", "holdout", "epochs")
    return [{name: value for name, value in fields.items() if name not in only_real} for fields in records]


# real agents


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"schedule": "centralised", "policy": "best"}, "centralised"),
        ({"straggler": 3.0}, "straggler"),
        ({"score_sites": True}, "own models"),
        ({"membership": True}, "membership"),
        ({"attack": read_attack("nan")}, "nan"),
        ({"attack": read_attack("backdoor:0,boost=3")}, "boost=3"),
    ],
)
def test_ssh_says_what_it_cannot_do(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        done(ssh, a_run(**changes), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


INTERRUPTED = """
import sys
from pathlib import Path
from experiments.engines.ssh import engine as ssh
from tests.integration.test_engines import a_run, images_of
run = a_run(sites=2, sessions=500)
ssh.run(run, images_of(run), Path(sys.argv[1]), lambda share, text: print(text, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_behind(tmp_path: Path, root: Path, number: signal.Signals) -> None:
    environ = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(240, process.kill)
    timer.start()
    try:
        assert process.stdout
        next(line for line in process.stdout if "ended session" in line)
        assert len(processes_of(tmp_path)) > 6
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
    until = time.monotonic() + 5  # the judge ends when its input does
    while (left := processes_of(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    assert [path.name for path in (tmp_path / "agents").iterdir()] == ["logs"]


# only in memory


def test_neither_cores_nor_earlier_runs_change_anything(tmp_path: Path) -> None:
    run = a_run(sites=4)
    alone = done(memory, run, tmp_path / "alone")
    other = dataclasses.replace(run, plan={**PLAN, "optimizer": "adam", "momentum": 0.0, "learning_rate": 0.01})
    done(memory, other, tmp_path / "other", cores=2)
    again = done(memory, run, tmp_path / "again", cores=2)
    first, second = ((tmp_path / name / HISTORY).read_bytes() for name in ("alone", "again"))
    assert first == second
    assert alone.points == again.points


def test_free_sites_give_the_same_history_on_any_number_of_cores(tmp_path: Path) -> None:
    run = a_run("merge", "free", 4, plan={**PLAN, "publish": "improved", "epochs": 4})
    for cores in (1, 3):
        done(memory, run, tmp_path / f"{cores}", cores)
    assert (tmp_path / "1" / HISTORY).read_bytes() == (tmp_path / "3" / HISTORY).read_bytes()


def test_the_test_split_is_scored_in_order_however_late() -> None:
    """A round does not wait for it; but few models do, and what cannot be scored ends the run."""
    go_on, asked = threading.Event(), []

    def late(weights: Any, against: Any = None, /) -> dict[str, Any]:
        assert go_on.wait(20)
        asked.append(weights)
        if weights == 9:
            raise ValueError("not finite")
        return {"accuracy": weights / 10}

    def of(version: int) -> Point:
        return Point(version, 1, 0.0, 0, 0, None, {"accuracy": 0.5}, {})

    with memory._Story(a_run(), late, lambda share, text: None) as story:
        for version in range(memory.WAITING):
            story._note(of(version), version)
        assert not asked
        go_on.set()
        for version in range(memory.WAITING, 9):
            story._note(of(version), version)
            assert len(asked) > version - memory.WAITING
        assert [point.test["accuracy"] for point in story.points()] == [version / 10 for version in range(9)]
        story._note(of(9), 9)
        with pytest.raises(ValueError, match="not finite"):
            story.points()


def test_outputs_are_those_of_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images a call of the graph goes through, and however many batches it computes at once."""
    images, outputs = pictures(203, 4), list[tuple[np.ndarray, dict[str, np.ndarray]]]()
    for call_bytes, beside in ((0, 1), (1 << 20, 1), (1 << 20, 3), (2 * 4 * 64 * 64, 2)):
        monkeypatch.setattr(scorer, "CALL_BYTES", call_bytes)
        judge = scorer.Scorer(SPEC, images, beside=beside)
        set_weights(judge.network, outputs[0][1] if outputs else get_weights(judge.network))
        outputs.append((judge._predict(images.images), get_weights(judge.network)))
    assert outputs[0][0].shape == (203, 3)
    assert all(np.array_equal(outputs[0][0], found) for found, _ in outputs[1:])
    plain = judge.network(images.images[:64], training=False).numpy()
    np.testing.assert_allclose(outputs[0][0][:64], plain, rtol=1e-5)


def test_centralised_keeps_the_best_epoch(tmp_path: Path) -> None:
    run = a_run("best", "centralised", 1, plan={**PLAN, "publish": "improved", "epochs": 5})
    outcome = done(memory, run, tmp_path / "run")
    holdout = [point.holdout["accuracy"] for point in outcome.points]
    assert holdout == sorted(holdout) and len(holdout) > 1
    assert outcome.bytes == 0 and outcome.submissions <= 10
    assert outcome.verdicts["accepted"] == len(outcome.points) - 1


def test_centralised_takes_every_epoch_where_sessions_end_so(tmp_path: Path) -> None:
    outcome = done(memory, a_run("best", "centralised", 1), tmp_path / "run")
    images = len(images_of(a_run(sites=1)).parts["alice-1"]) * 0.8
    assert [point.clock for point in outcome.points] == [images * epoch for epoch in range(5)]


def test_centralised_and_federation_begin_with_the_same_model(tmp_path: Path) -> None:
    done(memory, a_run("best", "centralised", 1), tmp_path / "centralised")
    done(memory, a_run("best", "free", 1), tmp_path / "federation")
    assert models(tmp_path / "centralised")[0] == models(tmp_path / "federation")[0]


def test_sites_own_models_are_scored_on_the_test_split(tmp_path: Path) -> None:
    outcome = done(memory, a_run(score_sites=True, attack=read_attack("sign-flip")), tmp_path / "run")
    assert list(outcome.site_scores) == ["alice-1", "alice-2", "alice-3"]
    assert all(scores["confusion"] for scores in outcome.site_scores.values())
    assert len({scores["loss"] for scores in outcome.site_scores.values()}) == 3


@pytest.mark.parametrize(("kind", "verdict"), [("nan", "invalid"), ("noise:1e30", "counted"), ("sign-flip", "counted")])
def test_attackers_verdicts_are_told_apart(tmp_path: Path, kind: str, verdict: str) -> None:
    outcome = done(memory, a_run(attack=read_attack(kind)), tmp_path / "run")
    assert outcome.attacker == {verdict: 2}
    assert all(np.isfinite(point.test["loss"]) for point in outcome.points)


def test_who_has_what_others_lack_brings_more_than_who_has_nothing_of_use(tmp_path: Path) -> None:
    """Only alice-1 has class 2; alice-3 has labels by chance, and what it sends is refused."""
    run = a_run("best", "free", sessions=4, plan={**PLAN, "epochs": 4})
    prepared = images_of(run)
    parts = dict(prepared.parts)
    parts["alice-2"] = parts["alice-2"].take(np.flatnonzero(parts["alice-2"].labels != 2))
    guessed = np.random.default_rng(5).integers(0, 3, len(parts["alice-3"]))
    parts["alice-3"] = dataclasses.replace(parts["alice-3"], labels=guessed)
    first = prepared.train
    assert first is not None
    without = dataclasses.replace(prepared, train=first.take(np.flatnonzero(first.labels != 2)), parts=parts)
    (tmp_path / "run").mkdir()
    outcome = memory.run(run, without, tmp_path / "run", lambda share, text: None)
    gains = contributions(record.fields for record in read_history(tmp_path / "run" / HISTORY))
    brought = {name: gains.get(name, {}).get("loss", 0.0) for name in run.site_names}
    assert brought["alice-1"] > 2 * max(brought["alice-2"], 0.01)
    assert brought["alice-3"] == pytest.approx(0, abs=0.02)
    gained = outcome.points[0].holdout["loss"] - outcome.points[-1].holdout["loss"]
    assert sum(brought.values()) == pytest.approx(gained)


def test_a_backdoor_opens_in_the_model_that_its_site_trains(tmp_path: Path) -> None:
    """The patch of one pixel is learned: without it the same images are taken for what they are more often."""
    from experiments.definition.backdoor import poisoned

    attack = read_attack("backdoor:0,share=0.5,sites=3")
    run = a_run(attack=attack, gate="off", sessions=6, plan={**PLAN, "epochs": 5})
    clean = images_of(run)
    parts = {name: poisoned(images, attack, 1) for name, images in clean.parts.items()}
    (tmp_path / "run").mkdir()
    outcome = memory.run(run, dataclasses.replace(clean, parts=parts), tmp_path / "run", lambda share, text: None)
    assert outcome.backdoor["stamped"] > outcome.backdoor["plain"] + 0.3


@pytest.mark.parametrize("private", [False, True])
def test_the_last_model_tells_who_was_trained_on(tmp_path: Path, private: bool) -> None:
    """Labels by chance can only be learned by heart; under noise nobody can."""
    plan = PLAN | {"epochs": 60, "momentum": 0.9}
    if private:
        plan["privacy"] = {"unit": "image", "clip": 1.0, "noise": 20.0, "delta": 1e-2, "budget": 8.0}
    run = a_run(gate="off", validation=0.0, plan=plan, sites=1, membership=True)
    clean, random = images_of(run), np.random.default_rng(5)
    parts = {
        name: dataclasses.replace(images, labels=random.integers(0, 3, len(images)))
        for name, images in clean.parts.items()
    }
    (tmp_path / "run").mkdir()
    prepared = dataclasses.replace(clean, parts=parts, holdout=pictures(400, 2))
    outcome = memory.run(run, prepared, tmp_path / "run", lambda share, text: None)
    assert (outcome.audited["auc"] > 0.62) is not private
    assert set(outcome.audited) == {"auc", "advantage", *(["epsilon"] if private else [])}
    assert not private or 0.1 < outcome.audited["epsilon"] <= 8


def test_given_weights_are_the_start(tmp_path: Path) -> None:
    from fedssh.models import build, get_weights
    from fedssh.weights import write_weights

    random = np.random.default_rng(0)
    given = {name: random.random(array.shape, np.float32) for name, array in get_weights(build(SPEC)).items()}
    write_weights(tmp_path / "given.safetensors", given, SPEC)
    run = a_run(sites=1)
    prepared = dataclasses.replace(images_of(run, train=False), weights=tmp_path / "given.safetensors")
    (tmp_path / "run").mkdir()
    memory.run(run, prepared, tmp_path / "run", lambda share, text: None)
    import hashlib

    sha256 = hashlib.sha256((tmp_path / "given.safetensors").read_bytes()).hexdigest()
    assert models(tmp_path / "run")[0] == sha256

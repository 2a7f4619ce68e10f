"""Membership inference where people meet it: before a checkpoint leaves a site, and by the commands `audit`."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from fedssh import models
from fedssh.alice.cli import alice as alice_command
from fedssh.alice.learner import Network
from fedssh.alice.limits import Limits
from fedssh.alice.script import _Adapted
from fedssh.alice.train import Alice
from fedssh.charity.cli import charity as charity_command
from fedssh.errors import AgentError, SettingsError, WeightsError
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.rules.plan import read_plan
from fedssh.use.audit import Asked, audit, told_apart
from fedssh.weights import write_weights
from tests.harness.alice import PLAN
from tests.integration.test_alice import SESSION, SmallSite, Told, site, told
from tests.integration.test_alice import SPEC as ALICE_SPEC
from tests.integration.test_in_use import run

__all__ = ["site", "told"]  # fixtures
AUDITED = Limits(max_audit_auc=0.6)
BY_HEART = {"epochs": 60, "learning_rate": 0.02, "batch_size": 8}


def noise(number: int, seed: int, size: int = 6) -> Images:
    """Images with labels drawn at random: what is learned of them is they themselves."""
    random = np.random.default_rng(seed)
    return Images(random.random((number, size, size, 1)).astype(np.float32), random.integers(0, 2, number))


def asked(group: click.Group, *words: object) -> str:
    """What a command prints, run in this process; what it ends with is raised."""
    done = CliRunner().invoke(group, list(map(str, words)))
    if done.exception is not None:
        raise done.exception
    return done.stdout


def train(site: SmallSite, limit: float, validation: float = 0.15) -> int:
    network = Network(site.data, 1, 1, None, validation)
    limits = Limits(max_audit_auc=limit)
    return Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), limits).run(sessions=1)


def test_a_model_that_tells_its_members_does_not_leave(site: SmallSite, told: Told) -> None:
    datasets.save(site.data, {"train": noise(80, 1), "val": noise(80, 2)})
    site.release(1, plan={**SESSION, **BY_HEART})
    assert train(site, 0.65) == 1
    assert not site.claims()
    (kept,) = told("kept-back")
    assert "session 1 epoch 60 is not published: by its loss an attacker tells training from validation" in kept["text"]
    assert kept["reason"].endswith("more than 0.65 (--max-audit-auc)")
    came, trained = told("audited")
    assert came["text"].startswith("release 1 as it came: an attack by loss tells 80 training images")
    assert came["audit"]["auc"]["low"] < 0.5 < came["audit"]["auc"]["high"]
    assert trained["audit"]["auc"]["low"] > 0.65 and trained["audit"]["members"] == 80
    (report,) = site.reports()
    assert (report.epochs, report.checkpoints) == (60, 0)
    assert told("session-over")[-1]["text"].endswith("nothing was published")
    assert not told("few")


def test_one_that_does_not_is_published_with_what_was_found(site: SmallSite, told: Told) -> None:
    site.release(1)
    train(site, 0.9, 0.3)
    assert site.claims() and not told("kept-back")
    assert len(told("audited")) == 1 + len(site.claims())


def test_nobody_looks_unless_asked(site: SmallSite, told: Told) -> None:
    site.release(1, plan={"epochs": 1})
    train(site, 1.0)
    assert not told("audited") and not told("few")


def test_few_images_are_warned_of(site: SmallSite, told: Told) -> None:
    site.release(1, plan={"epochs": 1})
    train(site, 0.55)
    assert (
        "on 102 training and 18 validation images a model that tells nothing has an AUC of 0.5 ±"
        in (told("few")[0]["text"])
    )


def test_what_cannot_be_audited_is_refused_before_a_training(site: SmallSite) -> None:
    site.release(1)
    with pytest.raises(SettingsError, match="the images that are scored on are those that are trained on"):
        train(site, 0.6, 0.0)
    alice = Alice(site.exchange, site.state, Network(site.data, 1, 1, None), None, 0.0, threading.Event(), AUDITED)
    split: Any = SimpleNamespace(
        release=SimpleNamespace(plan=PLAN),
        standing=SimpleNamespace(policy="split:cut=dense1"),
    )
    with pytest.raises(SettingsError, match="under the policy split:cut=dense1 no site has a whole model to audit"):
        alice._train(split)
    with pytest.raises(SettingsError, match="a script's own images cannot be audited"):
        _Adapted(None).membership(threading.Event())  # type: ignore[arg-type]


FIGURES = {"mean": 50.0, "deviation": 10.0}
SPEC = {"name": "mlp", "depth": 1, "width": 64, "input": [6, 6, 1], "classes": 2}


@pytest.fixture(scope="module")
def charity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose first model knows the coordinator's 60 training images by heart, and her images."""
    folder = tmp_path_factory.mktemp("charity")
    datasets.save(folder / "data.npz", {"train": noise(60, 1), "val": noise(60, 2), "test": noise(50, 3)})
    where = (f"--state={folder / 'state'}", f"--data={folder / 'data.npz'}", "--learning-rate=0.02", "--batch-size=8")
    run("charity", "init", *where, f"--architecture={json.dumps(SPEC)}", "--genesis-epochs=60", "--epochs=20")
    return folder


def test_a_coordinator_audits_with_her_own_images(charity: Path, root: Path) -> None:
    state, data = f"--state={charity / 'state'}", charity / "data.npz"
    said = json.loads(asked(charity_command, "audit", state, "--json"))
    assert said["members"] == {"from": f"train of {data}", "examples": 60} and said["record"] == 1
    assert said["attacks"]["loss"]["auc"]["low"] > 0.6
    assert said["rests_on"].startswith("it rests on 60 members and 60 non-members")
    assert said["attacks"].keys() == {"loss"} and not said["remarks"]
    table = asked(charity_command, "audit", "1", state, "--split=test")
    assert f"non-members  test of {data}" in table and "loss (Yeom et al. 2018)" in table
    (head,) = (line for line in table.splitlines() if line.startswith("ATTACK"))
    page = (root / "docs/how-to/audit.md").read_text()
    assert head.split() in [line.split() for line in page.splitlines()]
    text = f"{said['attacks']['loss']['auc']['value']:.4f}"
    done = run("charity", "audit", state, "--max-auc=0.6", code=1)
    assert text in done.stdout and f"an attack has an AUC of {text}, more than 0.6 (--max-auc)" in done.stderr


def test_it_audits_with_what_it_is_given_and_with_shadow_models(charity: Path, tmp_path: Path) -> None:
    """Images that nobody trained on are members of nothing; one that is on both sides is on one of them only."""
    both, members, others = tmp_path / "both.npz", noise(40, 5), noise(40, 6)
    mixed = Images(np.concatenate([others.images, members.images[:3]]), np.append(others.labels, members.labels[:3]))
    datasets.save(both, {"train": members, "val": mixed})
    words = (f"--members={both}", f"--non-members={both}:val", "--shadows=4", "--shadow-epochs=2", "--json")
    said = json.loads(asked(charity_command, "audit", f"--state={charity / 'state'}", *words))
    assert said["non_members"] == {"from": f"val of {both}", "examples": 40}
    assert said["remarks"] == ["3 of the non-members are among the members and left out"]
    assert all(found["auc"]["low"] < 0.5 < found["auc"]["high"] for found in said["attacks"].values())
    assert said["attacks"].keys() == {"loss", "lira"} and said["shadows"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--members={}/gone.npz"], "gone.npz does not exist"),
        (
            ["--members={}/data.npz:train", "--non-members={}/data.npz:train"],
            "all 60 non-members are among",
        ),
        (["--members={}/one.npz:test"], "one.npz has no test split"),
        (["--members={}/broken.npz"], "--members: "),
        (["--members={}/classes.npz"], "--members: "),
        (["--shadows=5"], "the number of shadow models is 5, expected 4 or more, and even"),
    ],
)
def test_what_cannot_be_audited_is_said(charity: Path, words: list[str], said: str) -> None:
    datasets.save(charity / "one.npz", {"train": noise(4, 1)})
    (charity / "broken.npz").write_bytes(b"PK")
    np.savez(charity / "classes.npz", train_images=np.zeros((3, 6, 6)), train_labels=np.array([0, 1, 2]))
    with pytest.raises(SettingsError, match=re.escape(said)):
        asked(charity_command, "audit", f"--state={charity / 'state'}", *(word.format(charity) for word in words))


@pytest.mark.parametrize("task", [{"task": "labels", "labels": 3}, {"task": "regression", "targets": [FIGURES]}])
def test_other_tasks_are_audited(task: dict[str, Any], tmp_path: Path) -> None:
    """Of a network that has learned nothing; targets in their own units are standardised on the way."""
    spec = models.check_spec({name: value for name, value in SPEC.items() if name != "classes"} | task)
    load_keras().utils.set_random_seed(3)
    write_weights(tmp_path / "model.safetensors", models.get_weights(models.build(spec)), spec)
    parts: list[Images] = []
    random = np.random.default_rng(4)
    for seed in (1, 2):
        several = random.integers(0, 2, (40, 3)) if "labels" in task else random.normal(50, 10, (40, 1))
        parts.append(Images(noise(40, seed).images, several))
    sides = told_apart(parts[0], parts[1], ("a", "b"), spec)
    found = audit(spec, read_plan(PLAN), tmp_path / "model.safetensors", sides, Asked(shadows=4, shadow_epochs=1))
    assert found.keys() == {"loss", "lira"} and not sides.remarks
    assert all(one.auc.low < 0.5 < one.auc.high for one in found.values())


def test_rows_of_a_table_are_audited(tmp_path: Path) -> None:
    random, rows = np.random.default_rng(1), ["age,bmi,sex,ill,split"]
    for at in range(80):
        age, bmi, sex, ill = random.normal(60, 10), random.normal(27, 4), random.choice(["m", "f"]), at % 2
        rows.append(f"{age:.1f},{bmi:.1f},{sex},{ill},{'train' if at < 40 else 'val'}")
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    state = f"--state={tmp_path / 'state'}"
    words = ("--target=ill", "--genesis-epochs=1", "--epochs=1", f"--data={tmp_path / 'rows.csv'}", state)
    run("charity", "init", *words)
    (tmp_path / "other.csv").write_text("\n".join([rows[0], *reversed(rows[41:])]))
    table = asked(charity_command, "audit", state, f"--non-members={tmp_path / 'other.csv'}")
    assert f"val of {tmp_path / 'other.csv'}" in table
    assert "it rests on 40 members and 40 non-members" in table and "one of these rows, 2.5 %" in table


def test_classes_that_are_divided_otherwise_are_noted(charity: Path, tmp_path: Path) -> None:
    one = noise(60, 8)
    datasets.save(tmp_path / "ill.npz", {"train": Images(one.images, np.ones(60, np.int64))})
    words = ("audit", f"--state={charity / 'state'}", f"--non-members={tmp_path / 'ill.npz'}")
    assert "note: members and non-members differ in their classes" in asked(charity_command, *words)


def test_a_site_audits_the_release_and_a_checkpoint(site: SmallSite) -> None:
    datasets.save(site.data, {"train": noise(80, 1), "val": noise(80, 2)})
    site.release(1, plan={**SESSION, **BY_HEART})
    train(site, 1.0)
    words = ("audit", f"--data={site.data}", f"--exchange={site.exchange.folder}", f"--state={site.state}", "--json")
    release = json.loads(asked(alice_command, *words))
    assert release["record"] == 1 and release["members"]["examples"] == 80
    assert release["attacks"]["loss"]["auc"]["low"] < 0.5 < release["attacks"]["loss"]["auc"]["high"]
    assert json.loads(asked(alice_command, *words, "--memory=0")) == release  # images stand in a file meanwhile
    assert not list(site.state.glob("audit-*"))
    with pytest.raises(SettingsError, match="--shadows needs all images in memory"):
        asked(alice_command, *words, "--memory=0", "--shadows=4")
    (checkpoint,) = site.exchange.outgoing.glob("*.safetensors")
    trained = json.loads(run("alice", *words[:1], checkpoint, *words[1:]).stdout)
    assert trained["attacks"]["loss"]["auc"]["low"] > 0.65 and "record" not in trained
    datasets.save(site.data, {"train": noise(80, 1)})
    held = json.loads(asked(alice_command, *words))
    assert (held["members"]["examples"], held["non_members"]["examples"]) == (68, 12)
    with pytest.raises(SettingsError, match=r"nothing of .* is held out"):
        asked(alice_command, *words, "--validation=0")


def test_a_model_that_is_none_of_the_federation_is_refused(site: SmallSite, tmp_path: Path) -> None:
    site.release(1)
    other = models.check_spec({"name": "mlp", "input": [6, 6, 1], "classes": 2, "width": 3, "depth": 1})
    write_weights(tmp_path / "other.safetensors", models.get_weights(models.build(other)), other)
    where = (f"--data={site.data}", f"--exchange={site.exchange.folder}", f"--state={site.state}")
    with pytest.raises(SettingsError, match="is a model of"):
        asked(alice_command, "audit", tmp_path / "other.safetensors", *where)
    broken = {name: np.full_like(one, np.nan) for name, one in models.get_weights(models.build(ALICE_SPEC)).items()}
    write_weights(tmp_path / "nan.safetensors", broken, ALICE_SPEC)
    with pytest.raises(AgentError, match="cannot be audited: 102 of 102 losses are not finite numbers"):
        asked(alice_command, "audit", tmp_path / "nan.safetensors", *where)
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError):
        asked(alice_command, "audit", tmp_path / "none.safetensors", *where)

"""Canaries at a site: drawn once, trained on in half, kept at home, and found again in a model that knows them."""

from __future__ import annotations

import json
import random
import secrets
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedssh.alice.audit import _against_account
from fedssh.alice.canaries import Canaries, Canary, Parted, agreed
from fedssh.alice.cli import alice as alice_command
from fedssh.alice.learner import Network
from fedssh.alice.limits import Limits
from fedssh.alice.train import Alice
from fedssh.errors import SettingsError
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.models.data.pixel_file import Store
from fedssh.models.private import units_of
from fedssh.rules.canaries import audited
from fedssh.rules.plan import read_plan
from tests.harness.alice import PLAN
from tests.harness.images import easy_images
from tests.integration.test_alice import SESSION, SmallSite, site
from tests.integration.test_alice_private import release
from tests.integration.test_audit import asked, noise

__all__ = ["site"]  # a fixture
WIDE = {"name": "mlp", "depth": 1, "width": 64, "input": [6, 6, 1], "classes": 2}
BY_HEART = {"epochs": 60, "learning_rate": 0.02, "batch_size": 16}
NUMBER = 24


@pytest.fixture(autouse=True)
def coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always the same ones: the bound holds in 95 of 100 cases, and a test shall not fail in the others."""
    monkeypatch.setattr(secrets, "SystemRandom", lambda: random.Random(5))


def train(site: SmallSite, number: int, **more: Any) -> Network:
    network = Network(site.data, 1, 1, None, canaries=agreed(site.state, number), **more)
    Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), Limits()).run(1)
    return network


def audit(site: SmallSite, *words: object) -> dict[str, Any]:
    where = (f"--data={site.data}", f"--exchange={site.exchange.folder}", f"--state={site.state}")
    said: dict[str, Any] = json.loads(asked(alice_command, "audit", *where, "--json", *words))
    return said


def test_coins_are_told_from_a_model_that_knows_its_images_by_heart_and_not_from_what_came(site: SmallSite) -> None:
    datasets.save(site.data, {"train": noise(240, 1), "val": noise(40, 2)})
    site.release(1, WIDE, {**SESSION, **BY_HEART})
    train(site, NUMBER)
    (file,) = site.state.glob("canaries-*.json")
    drawn = json.loads(file.read_bytes())["canaries"]
    assert file.stat().st_mode & 0o777 == 0o600 and len(drawn) == NUMBER
    inside = sum(one["inside"] for one in drawn)
    (claim,) = site.claims()
    assert claim.examples == 240 - NUMBER + inside
    (checkpoint,) = site.exchange.outgoing.glob("*.safetensors")
    found = audit(site, checkpoint)
    assert found["members"]["examples"] == 240 - NUMBER, "an audit by the losses leaves canaries out"
    told = found["canaries"]
    assert (told["canaries"], told["inside"]) == (NUMBER, inside)
    assert told["auc"]["low"] > 0.6 and told["epsilon"] > 0.4 and told["right"] >= 0.75 * told["guesses"]
    assert told["delta"] == 1e-5 and told["confidence"] == 0.95
    came = audit(site)["canaries"]
    assert came["epsilon"] == 0 and came["auc"]["value"] == 0.5, "they cost the release what they cost it before"
    for path in site.exchange.folder.rglob("*"):
        assert not path.is_file() or not any(one["image"].encode() in path.read_bytes() for one in drawn), path
    datasets.save(site.data, {"train": noise(240, 1).take(np.arange(200)), "val": noise(40, 2)})
    fewer = audit(site, checkpoint)
    left = fewer["canaries"]["canaries"]
    assert left < NUMBER
    assert fewer["remarks"] == [f"{NUMBER - left} of {NUMBER} canaries are not among these images, and left out"]
    datasets.save(site.data, {"train": noise(240, 1), "val": noise(40, 2)})
    words = (f"--data={site.data}", f"--exchange={site.exchange.folder}", f"--state={site.state}")
    table = asked(alice_command, "audit", checkpoint, *words)
    assert f"at least {told['epsilon']:.4f} at delta 1e-05 (95%)" in table


def test_half_of_them_are_trained_on_with_a_wrong_label_and_the_others_not_at_all(site: SmallSite) -> None:
    site.release(1)
    images = noise(240, 1)
    drawn = Canaries(site.state, "f" * 64, NUMBER)
    parted = drawn.among(images, 2)
    rest, trained, inside = images.take(parted.rest), parted.trained, [one for one in drawn.drawn if one.inside]
    assert len(rest) == 240 - NUMBER and 0 < len(inside) < NUMBER
    assert np.array_equal(trained.images[: len(rest)], rest.images)
    assert np.array_equal(trained.labels[: len(rest)], rest.labels)
    assert len(trained) == len(rest) + len(inside)
    for image, label in zip(trained.images[len(rest) :], trained.labels[len(rest) :], strict=True):
        (right,) = (one for one, pixels in zip(images.labels, images.images, strict=True) if (pixels == image).all())
        assert label == 1 - right
    mixed = np.random.default_rng(1).permutation(240)[10:]  # in another order, and ten are gone
    again = Canaries(site.state, "f" * 64).among(images.take(mixed), 2)
    assert set(again.known) <= set(parted.known) == set(drawn.drawn)
    left = {pixels.tobytes() for pixels in again.aside.images}
    assert left == {one.tobytes() for one in parted.aside.images} & {one.tobytes() for one in images.images[mixed]}


def test_each_is_a_patient_of_its_own() -> None:
    images = noise(240, 1)
    owned = Images(images.images, images.labels, np.arange(240) // 4)
    drawn = [Canary("ab", 1, True), Canary("cd", 0, True)]
    trained = Parted(owned, np.array([1, 6]), drawn, drawn).trained
    units = units_of(np.arange(len(trained)), trained.patients)
    assert sorted(map(len, units)) == [1, 1, 3, 3] + [4] * 58


def test_they_stay_those_of_the_federation_and_are_the_same_where_images_stream_from_disk(
    site: SmallSite, tmp_path: Path
) -> None:
    site.release(1, plan={**SESSION, "epochs": 1})
    datasets.save(site.data, {"train": easy_images(240), "val": easy_images(40, seed=1)})
    first = train(site, NUMBER)
    (file,) = site.state.glob("canaries-*.json")
    before = file.read_bytes()
    drawn = agreed(site.state)
    assert drawn is not None and drawn.measured
    streamed = Network(site.data, 1, 1, None, canaries=drawn, store=Store(tmp_path / "pixels", 0))
    train_, _ = streamed.load(read_spec(site))
    assert len(train_) == first.examples and file.read_bytes() == before
    assert audit(site) == audit(site, "--memory=0")
    with pytest.raises(SettingsError, match=r"--canaries is 30, and .* has 24 of this federation"):
        agreed(site.state, 30)
    assert agreed(site.state, NUMBER) is not None
    file.write_text('{"canaries":[{"image":"zz","label":0,"inside":1}]}')
    with pytest.raises(SettingsError, match=r"canaries-.*\.json cannot be read"):
        agreed(site.state)


def read_spec(site: SmallSite) -> dict[str, Any]:
    spec: dict[str, Any] = dict(site.terms().spec)
    return spec


@pytest.mark.parametrize(
    ("number", "said"),
    [(19, "--canaries is 19, expected at least 20"), (20, "--canaries is 20, and 102 images are trained on here")],
)
def test_too_few_and_too_many_are_refused_and_none_is_drawn(site: SmallSite, number: int, said: str) -> None:
    site.release(1)
    with pytest.raises(SettingsError, match=said):
        train(site, number)
    assert not list(site.state.glob("canaries-*")) and not site.claims()


def test_what_cannot_be_audited_has_none(site: SmallSite) -> None:
    site.release(1)
    with pytest.raises(SettingsError, match="--online trains on new images only"):
        train(site, NUMBER, online=True)
    network = Network(site.data, 1, 1, None, canaries=agreed(site.state, NUMBER))
    received: Any = SimpleNamespace(
        header=SimpleNamespace(spec=read_spec(site)), standing=SimpleNamespace(policy="split:cut=dense1")
    )
    with pytest.raises(SettingsError, match="under the policy split:cut=dense1 no site has a whole model to audit"):
        network.adopt(received, read_plan(PLAN))
    numbers = {"name": "mlp", "depth": 1, "width": 3, "input": [6, 6, 1], "task": "labels", "labels": 2}
    datasets.save(site.data, {"train": Images(noise(240, 1).images, np.zeros((240, 2), np.int64))})
    with pytest.raises(SettingsError, match="--canaries are wrong labels"):
        Network(site.data, 1, 1, None, canaries=agreed(site.state, NUMBER)).load(numbers)


def test_a_private_training_is_within_its_account_and_a_wrong_account_is_said(site: SmallSite) -> None:
    pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")
    datasets.save(site.data, {"train": easy_images(240), "val": easy_images(40, seed=1)})
    release(site, 3, 1)
    train(site, NUMBER)
    (checkpoint,) = site.exchange.outgoing.glob("*.safetensors")
    (claim,), found = site.claims(), audit(site, checkpoint)
    spent: float = claim.privacy.spent  # type: ignore[union-attr]
    assert found["canaries"]["delta"] == 1e-3 and 0 <= found["canaries"]["epsilon"] <= spent
    assert any(f"within this site's account, epsilon {spent:.4f}" in remark for remark in found["remarks"])
    file = site.state / "privacy.json"
    account = json.loads(file.read_bytes())
    account["charges"][0]["noise"] = 50.0  # nearly nothing would be spent with that
    file.write_text(json.dumps(account))
    sure = audited(np.arange(200) % 2, np.arange(200) % 2 == 1, 1e-3)
    assert sure.epsilon > 1.5 and "one of both is wrong" in str(_against_account(sure, site.state))

"""Alice under differential privacy: what she charges, and when; what she refuses, and what leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedssh.alice import account
from fedssh.alice.account import Charged
from fedssh.alice.learner import Network
from fedssh.alice.limits import Limits
from fedssh.alice.train import Alice
from fedssh.errors import SettingsError, UntrustedError
from fedssh.keys import PrivateKey
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.rules.plan import read_plan
from fedssh.rules.privacy import Charge, epsilon, read_privacy
from fedssh.rules.terms import written_loss
from fedssh.weights import read_weights
from tests.harness.images import easy_images
from tests.integration.test_alice import SmallSite, shapes

PRIVACY = {"unit": "image", "clip": 1.0, "noise": 1.0, "delta": 1e-3, "budget": 8.0}
ONE = Charge(1.0, 16 / 102, 7)  # of 120 images 18 are held out


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, PrivateKey]) -> SmallSite:
    return SmallSite(tmp_path, keys["coordinator"])


def plan(**privacy: Any) -> dict[str, Any]:
    return written_loss({"epochs": 1, "publish": "session", "privacy": PRIVACY | privacy}, "binary_crossentropy")


def release(site: SmallSite, sequence: int, turns: int, **privacy: Any) -> None:
    standing: dict[str, Any] = {"turns": turns, "round": {"number": turns, "sites": ["alice-1"], "of": 9}}
    site.release(sequence, plan=plan(**privacy), schedule="rounds", **standing)


def alice(site: SmallSite, budget: float | None = None, **limits: Any) -> Alice:
    network = Network(site.data, 1, 1, None)
    allowed = Limits(privacy_budget=budget, **limits)
    return Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), allowed)


def test_a_session_is_charged_before_it_is_trained_and_says_nothing_of_images(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(site, 3, 1)
    one, seen = alice(site), list[str]()
    fit, fsync, replace = one.network.fit, os.fsync, os.replace

    def durable(handle: int) -> None:
        fsync(handle)
        seen.append("fsync")

    def renamed(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append(Path(target).name)

    def trained(*words: Any) -> bool:
        assert [each.charge for each in account.load(site.state)] == [ONE]
        seen.append("fit")
        return fit(*words)

    said: dict[str, str] = {}
    monkeypatch.setattr(one, "_say", lambda event, text, *_, **fields: said.setdefault(event, text))
    monkeypatch.setattr(os, "fsync", durable)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(one.network, "fit", trained)
    assert one.run(1) == 1
    assert seen[seen.index(account.FILE) - 1 :][:4] == ["fsync", account.FILE, "fsync", "fit"]
    (claim,), (report,) = site.claims(), site.reports()
    spent = epsilon([ONE], 1e-3)
    assert claim.metrics is None and report.metrics is None and report.checkpoints == 1
    assert claim.privacy.fields() == {  # type: ignore[union-attr]
        "unit": "image", "sampling": "poisson", "clip": 1.0, "noise": 1.0, "rate": 16 / 102, "steps": 7, "delta": 1e-3,
        "spent": spent, "next": epsilon([ONE, ONE], 1e-3), "budget": 8.0,
    }  # fmt: skip
    assert f"epsilon 0.0000 -> {spent:.4f} of 8" in said["privacy"] and "nobody's to repeat" in said["privacy"]


def test_the_same_session_never_gives_the_same_weights(site: SmallSite) -> None:
    found = []
    for turns in (1, 2):
        release(site, 2 + turns, turns)
        alice(site).run(1)
        model = site.exchange.waiting()[-1]
        found.append(np.concatenate([one.ravel() for one in read_weights(model, shapes()).values()]))
    assert np.isfinite(found).all() and not np.array_equal(found[0], found[1])
    assert len(account.load(site.state)) == 2


@pytest.mark.parametrize("whose", ["own", "plan"])
def test_what_the_budget_does_not_suffice_for_is_not_trained(site: SmallSite, whose: str) -> None:
    enough = epsilon([ONE], 1e-3) + 0.01
    agreed, own = ({"budget": enough}, None) if whose == "plan" else ({}, enough)
    release(site, 3, 1, **agreed)
    assert alice(site, own).run(1) == 1
    release(site, 4, 2, **agreed)
    before = (site.state / account.FILE).read_bytes()
    with pytest.raises(
        UntrustedError, match=r"session 2 is not trained: epsilon .* is left, and .* would take"
    ) as stopped:
        alice(site, own).run(1)
    assert stopped.value.exit_code == 3 and ("--privacy-budget" in str(stopped.value)) == (whose == "own")
    assert (site.state / account.FILE).read_bytes() == before
    assert len(site.claims()) == 1
    last = site.reports()[-1]
    assert last.passed is True and last.checkpoints == 0, "so that nobody waits for this site"


def test_going_back_and_another_federation_give_nothing_back(site: SmallSite) -> None:
    release(site, 3, 1)
    alice(site).run(1)
    site.release(
        9, plan=plan(), schedule="rounds", name="another", turns=1,
        round={"number": 1, "sites": ["alice-1"], "of": 9},
    )  # fmt: skip
    alice(site).run(1)
    charged = account.load(site.state)
    assert len({one.genesis for one in charged}) == 2
    assert site.claims()[-1].privacy.spent == epsilon([ONE, ONE], 1e-3)  # type: ignore[union-attr]


def test_a_kill_between_charge_and_training_leaves_the_charge(site: SmallSite) -> None:
    release(site, 3, 1)
    code = """
import os, signal, sys, threading
from pathlib import Path
from fedssh.alice.exchange import Exchange
from fedssh.alice.learner import Network
from fedssh.alice.train import Alice
data, exchange, state = map(Path, sys.argv[1:])
network = Network(data, 1, 1, None)
network.fit = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
Alice(Exchange(exchange), state, network, None, 0.0, threading.Event()).run(1)
"""
    words = [sys.executable, "-c", code, str(site.data), str(site.exchange.folder), str(site.state)]
    assert subprocess.run(words, check=False).returncode == -9
    assert [one.charge for one in account.load(site.state)] == [ONE]
    assert alice(site).run(1) == 1
    assert site.claims()[-1].privacy.spent == epsilon([ONE, ONE], 1e-3)  # type: ignore[union-attr]


def test_what_a_site_refuses(site: SmallSite) -> None:
    release(site, 3, 1)
    with pytest.raises(UntrustedError, match="--min-accuracy has images decide"):
        alice(site, min_accuracy=0.5).run(1)
    with pytest.raises(UntrustedError, match="--max-audit-auc has images decide"):
        alice(site, max_audit_auc=0.6).run(1)
    release(site, 3, 1, unit="patient")
    with pytest.raises(SettingsError, match="patients are hidden, and nobody knows whose"):
        alice(site).run(1)
    site.release(5)
    with pytest.raises(UntrustedError, match="trains without privacy, this site has a budget"):
        alice(site, 1.0).run(1)
    assert account.load(site.state) == [] and site.claims() == []


def test_an_agreed_rate_is_trained_and_charged_whatever_images_there_are(site: SmallSite) -> None:
    release(site, 3, 1, rate=0.5)
    with pytest.raises(UntrustedError, match=r"the rate 0\.5, with our images a batch size of 51, this site allows"):
        alice(site, max_batch_size=20).run(1)
    assert account.load(site.state) == [] and site.reports()[-1].passed is True
    release(site, 4, 2, rate=0.1)
    assert alice(site).run(1) == 1
    (charged,) = account.load(site.state)
    assert charged.charge == Charge(1.0, 0.1, 10)


def test_patients_are_hidden_with_all_their_images(site: SmallSite) -> None:
    images = easy_images(120)
    datasets.save(site.data, {"train": Images(images.images, images.labels, np.repeat(np.arange(30), 4))})
    release(site, 3, 1, unit="patient")
    assert alice(site).run(1) == 1
    (charged,) = account.load(site.state)
    assert charged.unit == "patient" and charged.rate == 16 / alice_examples(site)
    release(site, 4, 2)
    with pytest.raises(SettingsError, match="counts in units of one patient, the federation hides one image"):
        alice(site).run(1)


def alice_examples(site: SmallSite) -> int:
    return site.claims()[-1].examples


def test_an_account_is_read_or_nothing_is_trained(tmp_path: Path) -> None:
    assert account.load(tmp_path) == []
    one = Charged("ab", 1, "image", 1.0, 0.1, 7, 1e-3, "2026-01-31T12:00:00.123Z")
    wrong: Any
    for wrong in ({"charges": [{**vars(one), "rate": 2}]}, {"charges": [{"rate": 1}]}, [], {}):
        (tmp_path / account.FILE).write_text(json.dumps(wrong))
        with pytest.raises(SettingsError, match=r"privacy\.json cannot be read"):
            account.load(tmp_path)


def test_the_price_is_shown_before_it_is_paid() -> None:
    agreed = read_plan({**plan(), "batch_size": 16, "patience": 1, "optimizer": "sgd", "learning_rate": 0.1,
                        "metric": "accuracy"})  # fmt: skip
    assert account.shown([], None, None, None)["spent"] == 0
    first = account.shown([], agreed, 102, 1.0)
    assert first["after"] == epsilon([ONE], 1e-3) and first["budget"] == 1.0 and first["refused"]
    one = Charged("ab", 1, "image", 1.0, 16 / 102, 7, 1e-3, "")
    then = account.shown([one], agreed, None, None)
    assert (then["spent"], then["after"]) == (epsilon([ONE], 1e-3), epsilon([ONE, ONE], 1e-3))
    rated = dataclasses.replace(agreed, privacy=read_privacy(PRIVACY | {"rate": 0.1}))
    assert account.shown([], rated, None, None)["after"] == epsilon([Charge(1.0, 0.1, 10)], 1e-3)
    assert then["left"] == pytest.approx(8 - then["spent"], abs=1e-4) and not then["refused"]

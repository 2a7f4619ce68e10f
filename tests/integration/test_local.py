"""Batch normalisation that stays at the sites: kept over sessions, the same in both engines, and what is refused."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.definition.config import Prepared, Run
from experiments.engines.memory import engine as memory
from experiments.engines.ssh import engine as ssh
from fedssh import models
from fedssh.alice import local
from fedssh.alice.newest import average_told
from fedssh.charity.judge.process import genesis
from fedssh.errors import BundleError, SettingsError
from fedssh.keys import PrivateKey
from fedssh.models import own
from fedssh.rules.plan import read_plan
from fedssh.rules.terms import written_loss
from fedssh.use.card import Origin
from tests.harness.alice import PLAN as PLAIN
from tests.integration.test_alice import SmallSite, alice, in_round
from tests.integration.test_engines import PLAN, a_run, images_of
from tests.integration.test_engines import models as models_of

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "networks"
SHAPE = {"name": "resnet", "blocks": 1, "width": 2, "stages": 1}
SPEC = {**SHAPE, "input": [8, 8, 1], "classes": 3}
HASH, OTHER = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own.VARIABLE, str(FOLDER))


def a_local_run(**plan: Any) -> tuple[Run, Prepared]:
    run = a_run(sites=2, architecture=SHAPE, gate="off", plan={**PLAN, "local": "batchnorm", **plan})
    return run, dataclasses.replace(images_of(run), spec=models.check_spec(SPEC))


def test_memory_gives_the_weights_of_real_agents(tmp_path: Path) -> None:
    run, prepared = a_local_run(epochs=1)
    for name, engine, this in (
        ("memory", memory, run), ("ssh", ssh, run),
        ("shared", memory, dataclasses.replace(run, plan={**PLAN, "epochs": 1})),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        # Apart, as experiments do it: convolutions give the same bits on as many threads, which a process sets once.
        apart = multiprocessing.get_context("spawn").Process(
            target=engine.run, args=(this, prepared, tmp_path / name, print, 1)
        )
        apart.start()
        apart.join(300)
        assert apart.exitcode == 0
    first, *rest = models_of(tmp_path / "memory")
    assert [first, *rest] == models_of(tmp_path / "ssh")
    shared = models_of(tmp_path / "shared")
    assert len(rest) == 2 and shared[:2] == [first, rest[0]] and shared[2] != rest[1]  # from the second session on


def tensors(value: float) -> Mapping[str, np.ndarray]:
    return {"norm/gamma": np.full(2, value, np.float32)}


def test_what_counts_is_the_newest_session_that_was_counted(tmp_path: Path) -> None:
    assert local.load(tmp_path, HASH, 9) is None
    for session in (1, 2, 3):
        local.keep(tmp_path, HASH, session, tensors(session), SPEC)
    found = local.load(tmp_path, HASH, 2)
    assert found is not None and found["norm/gamma"].tolist() == [2.0, 2.0]  # the third was interrupted
    assert [path.name for path in tmp_path.iterdir()] == [f"local-{'a' * 16}-000002.safetensors"]
    assert local.load(tmp_path, OTHER, 2) is None
    (tmp_path / f"local-{'a' * 16}-000002.safetensors").write_bytes(b"damaged")
    assert local.load(tmp_path, HASH, 2) is None
    local.keep(tmp_path, HASH, 3, {}, SPEC)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_site_that_lost_its_folder_begins_with_the_release_and_says_so(
    tmp_path: Path, keys: dict[str, PrivateKey], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="alice")
    site = SmallSite(tmp_path, keys["coordinator"])
    spec = models.check_spec({**SPEC, "input": [6, 6, 1], "classes": 2})
    plan = written_loss({"publish": "session", "epochs": 1, "local": "batchnorm"}, "auto")

    def session(number: int) -> list[str]:
        caplog.clear()
        site.release(number, spec, plan, **in_round(number, "alice-1"))
        alice(site).run(sessions=1)
        return [one.getMessage() for one in caplog.records if "batch normalisation" in one.getMessage()]

    begins = "batch normalisation begins as in release {}: this site has none of its own"
    assert session(1) == [begins.format(1)]
    assert session(2) == []
    for path in site.state.glob("local-*"):
        path.unlink()
    assert session(3) == [f"{begins.format(3)}; what 2 sessions left is not in {site.state}"]
    assert len(list(site.state.glob("local-*"))) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"local": "all", "publish": "session"}, "'local' of the training plan"),
        ({"local": "batchnorm", "publish": "improved"}, "it belongs to rounds"),
    ],
)
def test_a_plan_that_says_it_wrongly_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        read_plan(written_loss({**PLAIN, **change}, "auto"))


def test_a_network_without_batch_normalisation_is_refused(tmp_path: Path) -> None:
    run, prepared = a_local_run()
    spec = models.check_spec({"name": "mlp", "width": 2, "depth": 1, "input": [8, 8, 1], "classes": 3})
    answer = genesis(spec, tmp_path, prepared.holdout, 1, {"local": "batchnorm"}, tmp_path / "out", epochs=0)
    assert answer == {"unfit": "--local batchnorm: mlp has no batch normalisation"}
    (tmp_path / "run").mkdir()
    with pytest.raises(SettingsError, match="mlp has no batch normalisation"):
        memory.run(run, dataclasses.replace(prepared, spec=spec), tmp_path / "run", lambda share, text: None, 1)


@pytest.mark.parametrize("plan", [{}, {"local": "batchnorm"}])
def test_a_release_in_use_says_whose_batch_normalisation_it_has(plan: dict[str, Any]) -> None:
    origin = Origin({"plan": plan}, HASH, 7, HASH, HASH, {}, (), "2026-01-01T00:00:00Z")
    said = "warning: the model of record 7 has the average of all sites' batch normalisation, not this site's own"
    assert list(average_told(origin)) == ([said] if plan else [])

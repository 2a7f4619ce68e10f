"""The commands of docs/how-to/privacy.md, by real agents over SSH: two rounds, and a site whose budget is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from experiments.definition.config import HISTORY
from experiments.engines.memory import engine as memory
from experiments.engines.memory.history import read_history
from fedssh.rules.privacy import Charge, epsilon
from fedssh.rules.replay import Replay
from tests.harness.sites import Story
from tests.integration.test_engines import PLAN, a_run, images_of

SPEC = {"name": "mlp", "depth": 1, "width": 4, "input": [6, 6, 1], "classes": 2}
SITES = ("alice-1", "alice-2")
ONE = Charge(1.2, 8 / 60, 16)
ENOUGH = f"{epsilon([ONE], 1e-4) + 0.01:.2f}"


def images(seed: int, **numbers: int) -> dict[str, Any]:
    random, arrays = np.random.default_rng(seed), dict[str, Any]()
    for split, number in numbers.items():
        labels = np.arange(number) % 2
        pixels = random.integers(0, 160, (number, 6, 6)) + 90 * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels}
    return arrays


def test_a_private_federation_of_real_agents(tmp_path: Path) -> None:
    with Story(tmp_path / "federation") as federation:
        np.savez(federation.holdout, allow_pickle=False, **images(0, train=40, val=60))
        federation.command(
            "charity", "init", federation.state, f"--data={federation.holdout}", f"--architecture={json.dumps(SPEC)}",
            "--policy=fedavg", "--gate=off", "--sessions=2", "--epochs=2", "--batch-size=8", "--genesis-epochs=3",
            "--privacy=unit=image,clip=1,noise=1.2,delta=1e-4,budget=8", f"--address={federation.address}",
        )  # fmt: skip
        for number, site in enumerate(SITES, 1):
            (federation.site(site) / "data").mkdir(parents=True)
            np.savez(federation.site(site) / "data/site.npz", allow_pickle=False, **images(number, train=60, val=20))
            federation.enrol(site)
        federation.serve("--door=embedded", federation.listen)
        federation.start_site("alice-1", bob=("--retry-max=1",))
        federation.start_site("alice-2", bob=("--retry-max=1",), alice=(f"--privacy-budget={ENOUGH}",))
        trainers = [agent for agent in federation.agents if agent.name == "alice"]
        federation.until(lambda: all(agent.code() == 0 for agent in trainers), 240)
        federation.until(lambda: not federation.on_the_way())
        shown = json.loads(federation.command("charity", "privacy", federation.state, "--json"))
        history = federation.command("charity", "history", federation.state)
        verified = federation.command("charity", "verify", federation.state)
        records = federation.records()
        places = {site: federation.site(site) for site in SITES}
    assert "every hash, link, signature and decision is right" in verified
    counted = [(one["site"], one["round"], one["claim"]) for one in records if one["event"] == "counted"]
    assert sorted(counted) == [("alice-1", 1, None), ("alice-1", 2, None), ("alice-2", 1, None)]
    spent = {row["site"]: (row["spent"], row["state"], row["budget"]) for row in shown["sites"]}
    first, second = epsilon([ONE], 1e-4), epsilon([ONE, ONE], 1e-4)
    assert spent == {"alice-1": (second, "enrolled", 8.0), "alice-2": (first, "spent", float(ENOUGH))}
    assert "1 with no privacy budget left" in history
    assert [one["metrics"] for one in records if one["event"] == "report"] == [None] * 3
    program = [str(Path(sys.executable).parent / "alice"), "privacy", "--json"]
    for site, budget, code, left in (("alice-1", "8", 0, 8 - second), ("alice-2", ENOUGH, 3, float(ENOUGH) - first)):
        where = [f"--state={places[site] / 'alice'}", f"--exchange={places[site] / 'exchange'}"]
        asked = subprocess.run(
            [*program, *where, f"--privacy-budget={budget}"], capture_output=True, text=True, check=False
        )
        assert asked.returncode == code, asked.stderr
        assert json.loads(asked.stdout)["left"] == pytest.approx(left, abs=1e-4)


def test_sites_in_memory_keep_the_same_account(tmp_path: Path) -> None:
    privacy = {"unit": "image", "clip": 1.0, "noise": 1.2, "delta": 1e-4, "budget": 8.0}
    run = a_run(sites=2, gate="off", plan={**PLAN, "privacy": privacy})
    memory.run(run, images_of(run), tmp_path, lambda share, text: None, 1)
    held = Replay()
    for record in read_history(tmp_path / HISTORY):
        held.follow(record)
    assert held.state is not None
    counted = [record.fields for record in read_history(tmp_path / HISTORY) if record.event == "counted"]
    assert len(counted) == 4 and all(one["claim"] is None for one in counted)
    for site, account in held.state.spent.items():
        charges = [Charge(1.2, rate, steps) for rate, steps in account.charges]
        assert account.spent == epsilon(charges, 1e-4) > 0, site

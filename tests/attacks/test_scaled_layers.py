"""The short form of `scaled_layers`: every variant against one coordinator, whose honest site goes on afterwards."""

from __future__ import annotations

from pathlib import Path

from fedssh.alice.fitting import new_trainer
from fedssh.charity.judge.client import Judge
from fedssh.keys import PrivateKey
from fedssh.rules.plan import read_plan
from tests.attacks.scaled_layers import ADAM, PLAN, VARIANTS, federation, rooms, scaled, trained

WORDS = {
    "plateau": "times as large as the current one; more than 100 times is refused untried",
    "nan": "times as large as the current one; more than 100 times is refused untried",
    "careful": "times as large as the current one, and training ruins it",
}


def test_no_scaled_model_becomes_current_and_an_honest_one_does(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    plan = {**PLAN, **ADAM}
    where = rooms("mlp", 250, tmp_path)
    trainer = new_trainer(where.spec, read_plan(plan))
    sites = {"honest": keys["alice-1"], "hostile": keys["alice-2"]}
    with federation(tmp_path, where.data, where.spec, plan, Judge, sites) as begun:
        first = begun.current()
        better, _ = trained(trainer, plan, first, where.sites["hostile"], where.val, 1)
        for name, variant in VARIANTS.items():
            said = begun.submit("hostile", scaled(better, variant), tmp_path)
            found = name, said["event"], said["reason"]
            assert said["event"] == "refused" and said["reason"].endswith(WORDS[name]), found
            assert said["metrics"]["accuracy"] > said["current_metrics"]["accuracy"], "it scores better"
        said = begun.submit("honest", better, tmp_path)
        assert said["event"] == "accepted" and "layer" not in said["reason"], said
        _, epochs = trained(trainer, plan, begun.current(), where.sites["honest"], where.val, 2)
        assert any(epoch.publish for epoch in epochs)

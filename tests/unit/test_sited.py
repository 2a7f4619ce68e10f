"""What training costs a site, and where a report says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.definition.read import read
from experiments.engines.sited import per_site
from experiments.results.measure import Group
from experiments.results.sited import spent, table_of_costs
from fedssh import models
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from tests.harness.outcomes import result

SPEC = models.check_spec({"name": "lenet", "input": [28, 28, 1], "classes": 10})
PLAN = Plan(batch_size=32, epochs=2, patience=1, optimizer="adam", learning_rate=0.001, loss="auto")
C1 = 28 * 28 * 6 * 25
REST = 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 840


def test_a_site_computes_all_or_its_part() -> None:
    whole = per_site(SPEC, PLAN, read_policy("fedavg"), 50)
    assert whole == {"images": 50.0, "multiply_adds": 3.0 * (C1 + REST), "bytes": 2.0 * 4 * 61706}
    split = per_site(SPEC, PLAN, read_policy("split:s2,wire=f16"), 50)
    state = 4 * (156 + 2 * 156 + 2)
    step = 2 * 40 + 16
    assert split == {
        "images": 50.0,
        "multiply_adds": 4.0 * C1,
        "bytes": 2.0 * state + 2 * (2 * step + 50 * (2 * 2 * 14 * 14 * 6 + 4)),
    }
    ends = per_site(SPEC, PLAN, read_policy("split:s2,labels=site,tail=f6"), 50)
    assert ends["multiply_adds"] == 4 * C1 + 3 * 840
    assert ends["bytes"] > split["bytes"] + 2 * 2 * 50 * 2 * 84 - 2 * 50 * 4


def test_what_cannot_be_counted_is_not_told() -> None:
    assert per_site({**SPEC, "name": "nothing"}, PLAN, read_policy("fedavg"), 50) == {}


def test_a_report_says_what_a_site_spent_until_a_score(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text('question = "?"\n[federation]\nsites = 2\n[plan]\nepochs = 2\n[[runs]]\n')
    [run] = read(tmp_path / "two.toml").runs
    costs = {"images": 50.0, "multiply_adds": 1e6, "bytes": 3e6}
    done = result(run, [0.5, 0.8, 0.9], 100.0, per_site=costs)
    last = done.outcome.final
    assert spent(done, last) == pytest.approx((last.examples / 2 * 1e6, last.examples / 2 / 100 * 3e6))
    text = table_of_costs([Group("ours", (done,))], "accuracy", (0.65, 0.95))
    second = done.outcome.points[1]
    assert f"| ours | 50 | {second.examples / 2:,.1f} | {second.examples / 200 * 3:,.2f} | – | – |" in text
    assert table_of_costs([Group("ours", (done,))], "accuracy", ()) == ""
    assert table_of_costs([Group("old", (result(run, [0.5], 1.0),))], "accuracy", (0.8,)) == ""

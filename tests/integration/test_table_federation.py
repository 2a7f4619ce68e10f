"""A table of features through the real rooms: agreed, held against, trained, predicted from, exported."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiments.definition.config import HISTORY, Run
from experiments.definition.prepare import prepare
from experiments.engines.memory import engine as memory
from experiments.engines.memory.history import read_history
from experiments.engines.ssh import engine as ssh
from fedssh.rules.policies import read_policy

PLAN = {
    "optimizer": "adam", "learning_rate": 0.01, "momentum": 0.0, "batch_size": 16, "epochs": 1, "patience": 3,
    "publish": "session", "proximal": 0.0, "loss": "auto",
}  # fmt: skip
DATA = {
    "dataset": "breast_cancer", "partition": "iid", "coordinator": 0.2, "weights": "", "per_label": 0, "outliers": 0.0,
    "train": 0, "holdout": 0, "test": 0, "folds": 0, "fold": 0,
}  # fmt: skip
LOAD = """
import json, keras, sys
rows = json.loads(sys.argv[2])
print(*keras.models.load_model(sys.argv[1]).predict(keras.ops.array(rows, "float64"), verbose=0)[:, 0])
"""


def models(folder: Path) -> list[str]:
    events = ("genesis", "round-accepted")
    return [one.fields["model"]["sha256"] for one in read_history(folder / HISTORY) if one.event in events]


@pytest.mark.parametrize(
    ("dataset", "metric", "worst"), [("breast_cancer", "accuracy", 0.3), ("diabetes", "mae", 100.0)]
)
def test_memory_gives_the_weights_of_real_agents_on_a_table(
    tmp_path: Path, dataset: str, metric: str, worst: float
) -> None:
    run = Run(
        experiment="test", slug="test", seed=3, architecture={"name": "mlp", "width": 8, "depth": 1}, sites=2,
        schedule="rounds", policy=read_policy("fedavg").text, gate="off", margin=0.0, metric=metric, sessions=1,
        plan=PLAN, validation=0.2, attack=None, straggler=1.0, score_sites=False, data={**DATA, "dataset": dataset},
    )  # fmt: skip
    points = []
    for name, engine in (("memory", memory), ("ssh", ssh)):
        (tmp_path / name).mkdir()
        outcome = engine.run(run, prepare(run, tmp_path), tmp_path / name, lambda share, text: None, 1)
        points.append([point.test for point in outcome.points])
    assert models(tmp_path / "memory") == models(tmp_path / "ssh") and len(models(tmp_path / "ssh")) == 2
    last = points[0][-1][metric]
    assert points[0] == points[1] and (1 - last if metric == "accuracy" else last) < worst


def charity(state: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedssh.charity.cli", *map(str, words), "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def patients(path: Path, number: int = 120) -> Path:
    """Two visits of each patient: ill from a dose on, and where a smoker has some of it."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "patient_id", "age", "dose", "smoker", "seen", "outcome"])
        for at in range(number):
            dose, smoker = at * 7 % 60 / 4, ("no", "yes", "")[at % 3]
            ill = dose + (4 if smoker == "yes" else 0) > 8
            age = "" if at % 11 == 0 else 30 + at % 40
            rows.writerow([f"case {at}", f"p{at // 2}", age, dose, smoker, at % 2 == 0, "ill" if ill else "well"])
    return path


def test_a_table_is_agreed_on_predicted_from_and_exported(tmp_path: Path) -> None:
    data, state = patients(tmp_path / "patients.csv"), tmp_path / "coordinator"
    begin: tuple[object, ...] = (
        "init",
        "--data",
        data,
        "--target",
        "outcome",
        "--holdout",
        "0.25",
        "--batch-size",
        "8",
    )
    refused = charity(state, *begin, code=2)
    assert "the column case of" in refused.stderr and "--leave-out case passes it over" in refused.stderr
    begin = (*begin, "--leave-out", "case", "--genesis-epochs", "30")
    refused = charity(state, *begin, "--augment", "flips", code=2)
    assert "--augment is for images" in refused.stderr and not (state / "vault" / "ledger.sqlite").exists()
    begun = charity(state, *begin)
    assert "4 columns, 2 of the kind number, 1 of the kind category, 1 of the kind flag: age, dose" in begun.stdout
    assert "none of 60 patients is in both" in begun.stdout
    genesis = json.loads(charity(state, "show", "1", "--json").stdout)
    assert genesis["spec"]["input"] == [1, 5, 1] and genesis["spec"]["name"] == "mlp"
    assert genesis["table"]["target"] == "outcome" and genesis["metrics"]["accuracy"] > 0.8
    assert genesis["table"]["columns"][2] == {"name": "smoker", "kind": "category", "categories": ["no", "yes"]}
    assert charity(state, "verify").returncode == 0
    scored = json.loads(charity(state, "score", "--split", "val", "--json").stdout)
    assert scored["metrics"]["accuracy"] == genesis["metrics"]["accuracy"]

    new = tmp_path / "new.csv"
    new.write_text("dose;Age;smoker;seen\n14;41;yes;true\n0.5;;;False\n14;41;perhaps;1\n3,5;x;no;true\n")
    done = charity(state, "predict", new, "--csv", tmp_path / "out.csv", code=1)
    assert "2 of 4 rows could not be read" in done.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        said = list(csv.DictReader(file))
    assert [row["row"] for row in said] == ["1", "2", "3", "4"]
    assert [row["class"] for row in said] == ["ill", "well", "", ""]
    assert said[2]["error"] == "smoker says perhaps, expected one of no, yes, or nothing"
    assert "dose says 3,5, a decimal comma: write a point" in said[3]["error"]

    out = tmp_path / "best.keras"
    charity(state, "export", "best", out)
    environ = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    raw = json.dumps([[41, 14, 1, 1], [float("nan"), 0.5, float("nan"), 0]])
    loaded = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", LOAD, str(out), raw],
        capture_output=True, text=True, env=environ, check=True,
    )  # fmt: skip
    wanted = [float(row["p(well)"]) for row in said[:2]]
    assert list(map(float, loaded.stdout.split())) == pytest.approx(wanted, abs=2e-6)
    with zipfile.ZipFile(out) as archive:
        traced, card = json.loads(archive.read("class_names.json")), archive.read("README.md").decode()
    assert traced["table"] == genesis["table"]
    assert "| 2 | smoker | category |  |  | 0 no, 1 yes |" in card

"""What the federation is measured against: one training on the union of all its data, in one place.

Takes the state of a finished quickstart: the coordinator's and every site's training images, the same network, plan
and first weights (those of genesis), and the same number of epochs as all sessions of one site together. As Charity
does with the sites' models, it keeps the epoch that is best on the holdout. Prints the scores of that model on the
test split as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import models, weights
from fedssh.models.backend import load_keras
from fedssh.models.data import images
from fedssh.models.score import score
from fedssh.rules.gate import best as better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    state: Path = options.state
    first = (state / "coordinator" / "outbox" / "ledger.jsonl").read_text().splitlines()[0]
    genesis = json.loads(json.loads(first)["record"])
    print(json.dumps({"metrics": train(state, genesis, options.epochs, options.seed)}))


def train(state: Path, genesis: dict[str, Any], epochs: int, seed: int) -> dict[str, Any]:
    """The test scores of the epoch that is best on the holdout."""
    keras = load_keras(0)
    keras.utils.set_random_seed(seed)
    spec, plan = genesis["spec"], genesis["plan"]
    files = [state / "holdout.npz", *sorted(state.glob("sites/*/data/site.npz"))]
    parts = [images.load(path, spec["input"], spec["classes"], "train") for path in files]
    model = models.build(spec)
    start = state / "coordinator" / "vault" / "models" / f"{genesis['model']['sha256']}.safetensors"
    models.set_weights(model, weights.read_weights(start, weights.read_header(start).tensors))
    optimizer = keras.optimizers.get(
        {"class_name": plan["optimizer"], "config": {"learning_rate": plan["learning_rate"]}}
    )
    model.compile(optimizer=optimizer, loss=plan["loss"])
    holdout = images.load(files[0], spec["input"], spec["classes"], "val")
    best, best_weights = genesis["metrics"], models.get_weights(model)
    for _ in range(epochs):
        model.fit(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
            batch_size=plan["batch_size"],
            verbose=0,
        )
        scores = score(model.predict(holdout.images, verbose=0), holdout.labels, spec["classes"])
        if better(scores, best, plan["metric"])[0]:
            best, best_weights = scores, models.get_weights(model)
    models.set_weights(model, best_weights)
    test = images.load(files[0], spec["input"], spec["classes"], "test")
    return score(model.predict(test.images, verbose=0), test.labels, spec["classes"])


if __name__ == "__main__":
    main()

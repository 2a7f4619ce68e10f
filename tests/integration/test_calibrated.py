"""A calibrated loss in a whole federation in memory: sites with hardly a label in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.definition.config import HISTORY, Prepared
from experiments.engines.memory import engine as memory
from experiments.engines.memory.history import read_history
from fedssh.models import check_spec
from fedssh.models.data.images import Images
from tests.integration.test_engines import PLAN, a_run

SHAPE = {"name": "mlp", "width": 8, "depth": 1}
SPEC = check_spec({**SHAPE, "input": [4, 4, 1], "classes": 2})


def pictures(first: int, second: int, seed: int) -> Images:
    """So many of each class: noise that is a little brighter on one side."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat([0, 1], [first, second]))
    pixels = random.random((len(labels), 4, 4, 1), dtype=np.float32)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 2 * label : 2 * label + 2] += np.float32(0.25)
    return Images(pixels / np.float32(1.25), labels.astype(np.int64))


def recalls(folder: Path, **plan: Any) -> tuple[float, float]:
    """Of both classes, by the last model, on images with as many of each as the coordinator's."""
    parts = {"alice-1": pictures(5, 195, 11), "alice-2": pictures(57, 3, 12)}
    run = a_run(
        sites=2, gate="off", sessions=4, seed=0, validation=0.0, architecture=SHAPE, plan={**PLAN, "epochs": 10, **plan}
    )
    prepared = Prepared(SPEC, None, pictures(50, 50, 2), pictures(300, 300, 3), parts)
    folder.mkdir()
    table: Any = memory.run(run, prepared, folder, lambda share, text: None, 1).points[-1].test["confusion"]
    return table[0][0] / 300, table[1][1] / 300


def test_a_site_with_many_of_one_class_no_longer_teaches_all_to_say_it(tmp_path: Path) -> None:
    plain, calibrated = recalls(tmp_path / "plain"), recalls(tmp_path / "calibrated", calibrate="labels")
    assert plain[0] < 0.5 < 0.9 < plain[1], "the test needs sites that make the model prefer class 1"
    assert min(calibrated) > 0.65
    assert sum(calibrated) > sum(plain) + 0.2
    genesis = read_history(tmp_path / "calibrated" / HISTORY)[0]
    assert genesis.fields["plan"]["label_shares"] == [0.5, 0.5]

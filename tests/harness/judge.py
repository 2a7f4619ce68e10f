"""The stand-in judge: a model's accuracy is its last weight, as far as 1, so that nobody needs Keras.

As a program it speaks the whole protocol of fedssh/charity/judge/process.py, with the judge's own arithmetic. Some last
weights make it misbehave: 2 hangs, 3 dies, 4 is no finite number, 5 a full disk. Imports as it needs: hundreds start.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

COMMAND = (sys.executable, "-P", "-m", "tests.harness.judge")
SPEC: dict[str, Any] = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}
SHAPES: dict[str, tuple[int, ...]] = {"dense1/kernel": (4, 2), "output/bias": (1,)}
GENESIS_ACCURACY = 0.5
EXAMPLES = 100


class Scorer:
    """What the judge's arithmetic needs of a network."""

    spec = SPEC
    statistics: frozenset[str] = frozenset()

    def read(self, path: Path) -> Mapping[str, np.ndarray]:
        from fedssh.weights import read_weights

        return read_weights(path, SHAPES)

    def right(self, path: Path) -> np.ndarray:
        return right_of(value_of(path))

    def score_weights(self, tensors: Mapping[str, np.ndarray], against: np.ndarray | None = None) -> dict[str, Any]:
        value = float(tensors["output/bias"][0])
        return measured(value) | ({} if against is None else paired(value, against))


def measured(value: float) -> dict[str, Any]:
    """The metrics of a model whose last weight is `value`."""
    if value == 2:
        time.sleep(60)
    if value == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if value == 4:
        raise ValueError("3 of the predictions are not finite numbers")
    if value == 5:
        raise OSError(errno.ENOSPC, "No space left on device")
    value = min(value, 2 - value)  # beyond 1 is too far
    return {"loss": round(1 - value, 4), "accuracy": round(value, 4), "auc": None, "confusion": [[1, 0], [0, 1]]}


def right_of(value: float) -> np.ndarray:
    """Which of its images a model calls rightly whose last weight is `value`: the first ones."""
    import numpy as np

    return np.arange(EXAMPLES) < round(EXAMPLES * min(value, 2 - value))


def paired(value: float, against: np.ndarray) -> dict[str, Any]:
    """What the scores gain of a model that is paired with one that calls other images rightly."""
    from fedssh.rules.gate import PAIRED, standard_error

    found = right_of(value)
    return {PAIRED: standard_error(int((against & ~found).sum()), int((~against & found).sum()), len(found))}


def value_of(path: Path) -> float:
    """The last weight of a model in a file of whatever architecture."""
    value: float = struct.unpack("<f", path.read_bytes()[-4:])[0]
    return value


def score(path: str) -> dict[str, Any]:
    """The metrics of a model in a file."""
    return measured(value_of(Path(path)))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the judge says to a question."""
    try:
        return _answer(request)
    except ValueError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": str(error), "errno": error.errno}


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    from fedssh.charity.judge import combining

    if wanted := request.get("genesis"):
        return genesis(wanted["out"])
    if wanted := request.get("check"):  # where nothing can be trained
        from fedssh.charity.judge.probe import Probe

        model, current, first = (Scorer().read(Path(wanted[whose])) for whose in ("model", "current", "first"))
        return vars(Probe(SPEC, wanted["plan"], lambda: None).check(model, ("c", current), ("f", first)))
    if wanted := request.get("spent"):
        from fedssh.rules.privacy import Charge, epsilon

        return {"spent": epsilon([Charge(*one) for one in wanted["charges"]], wanted["delta"])}
    if "mix" in request:
        return combining.mix(Scorer(), request["mix"])
    if "round" in request:
        return combining.combine(Scorer(), request["round"])
    metrics = score(request["model"])
    if against := request.get("against"):
        metrics |= paired(value_of(Path(request["model"])), right_of(value_of(Path(against))))
    return {"metrics": metrics}


def genesis(out: str) -> dict[str, Any]:
    """Make the first model."""
    import numpy as np

    from fedssh.weights import write_weights

    tensors = {name: np.full(shape, GENESIS_ACCURACY, np.float32) for name, shape in SHAPES.items()}
    write_weights(Path(out), tensors, SPEC)
    return {"metrics": score(out), "examples": 1}


def ready(examples: int = EXAMPLES) -> dict[str, Any]:
    """What the judge says when it is ready."""
    return {"ready": True, "holdout": {"sha256": "ab" * 32, "examples": examples}}


def main() -> None:
    parser = argparse.ArgumentParser(description="A judge without Keras.")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="how many the holdout has")
    first = ready(parser.parse_args().examples)
    for said in itertools.chain([first], map(answer, map(json.loads, sys.stdin))):
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()

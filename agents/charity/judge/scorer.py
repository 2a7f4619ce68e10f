"""What weights score on the coordinator's images: a network that is built once, and metrics of its predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh import weights
from fedssh.charity.judge.deciding import decided
from fedssh.models import build, get_weights, score, set_weights, statistics
from fedssh.models.backend import compiled
from fedssh.models.data import images

if TYPE_CHECKING:
    import numpy as np

BATCH = 64  # as quick as larger ones and 100 MB leaner; the last one is filled up, so that one function serves all


class Scorer:
    """A network with room for any weights of its architecture, and the images it is scored on.

    Args:
        spec: The architecture.
        holdout: The images.
        decision: What else is found than scores, as of `rules.thresholds.asked`.
    """

    def __init__(self, spec: dict[str, Any], holdout: images.Images, decision: Mapping[str, Any] | None = None) -> None:
        import tensorflow

        self.spec = spec
        self.holdout = holdout
        self._decision = decision
        self.network = build(spec)
        self.shapes = {name: tuple(array.shape) for name, array in get_weights(self.network).items()}
        self.statistics = statistics(self.network)
        shape = tensorflow.TensorSpec((min(BATCH, len(holdout)), *spec["input"]), "float32")
        self._forward = compiled(lambda batch: self.network(batch, training=False), [shape])
        self._batch = shape.shape[0]

    def score_file(self, path: Path) -> dict[str, Any]:
        """What the model in a file scores."""
        set_weights(self.network, weights.read_weights(path, self.shapes))
        return self.score()

    def score_weights(self, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What weights in memory score."""
        set_weights(self.network, tensors)
        return self.score()

    def read(self, path: Path) -> Mapping[str, np.ndarray]:
        """The tensors of a model file of this architecture, read as they are used."""
        return weights.map_weights(path, self.shapes)

    def outputs_of(self, path: Path, others: images.Images) -> np.ndarray:
        """What the model in a file gives for other images."""
        set_weights(self.network, weights.read_weights(path, self.shapes))
        return self._predict(others.images)

    def score(self) -> dict[str, Any]:
        """What the weights at hand score."""
        outputs, labels = self._predict(self.holdout.images), self.holdout.labels
        metrics = score.measured(outputs, labels, self.spec)
        return metrics | (decided(self._decision, outputs, labels, self.spec["classes"]) if self._decision else {})

    def _predict(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [n, height, width, channels] -> float32 [n, outputs]."""
        import numpy as np

        parts = []
        for start in range(0, len(pixels), self._batch):
            batch = pixels[start : start + self._batch]
            missing = self._batch - len(batch)
            filled = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)]) if missing else batch
            parts.append(self._forward(filled).numpy()[: len(batch)])
        return np.concatenate(parts)


def fingerprint(holdout: images.Images) -> str:
    """SHA-256 of images and labels as the network sees them: which holdout a score belongs to."""
    digest = hashlib.sha256(repr((holdout.images.shape, holdout.labels.shape)).encode())
    digest.update(holdout.images.tobytes())
    digest.update(holdout.labels.tobytes())
    return digest.hexdigest()

"""What weights score on the coordinator's images: a network that is built once, and metrics of its predictions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh import weights
from fedssh.charity.judge.deciding import decided
from fedssh.models import build, get_weights, score, set_weights, statistics
from fedssh.models.backend import compiled
from fedssh.models.data import images
from fedssh.rules.gate import PAIRED, standard_error

if TYPE_CHECKING:
    import numpy as np

CALL_BYTES = 8 << 20  # of images that one call of the graph goes through: they are copied once
BATCH = 64  # as quick as larger ones and 100 MB leaner; the last one is filled up, so that one function serves all


class Scorer:
    """A network with room for any weights of its architecture, and the images it is scored on.

    Args:
        spec: The architecture.
        holdout: The images.
        decision: What else is found than scores, as of `rules.thresholds.asked`.
        beside: How many batches may be computed at the same time; each takes memory, and the scores are the same.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        holdout: images.Images,
        decision: Mapping[str, Any] | None = None,
        beside: int = 1,
    ) -> None:

        self.spec = spec
        self.holdout = holdout
        self._decision = decision
        self._right: tuple[str, np.ndarray] | None = None
        self.network = build(spec)
        self.shapes = {name: tuple(array.shape) for name, array in get_weights(self.network).items()}
        self.statistics = statistics(self.network)
        self._batch = min(BATCH, len(holdout))
        self._forward = _batches(self.network, self._batch, spec["input"], beside)

    def score_file(self, path: Path, against: np.ndarray | None = None) -> dict[str, Any]:
        """What the model in a file scores; `against` as of `score`."""
        set_weights(self.network, weights.read_weights(path, self.shapes))
        return self.score(against)

    def score_weights(self, tensors: Mapping[str, np.ndarray], against: np.ndarray | None = None) -> dict[str, Any]:
        """What weights in memory score; `against` as of `score`."""
        set_weights(self.network, tensors)
        return self.score(against)

    def right(self, path: Path) -> np.ndarray:
        """Which images the model in a file calls rightly, bool [n]; of the last one that was asked for it is known.

        Stored models have their hash as file name, so it names them.
        """
        if self._right is None or self._right[0] != path.name:
            self._right = path.name, self.right_of(self.read(path))
        return self._right[1]

    def right_of(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which images weights in memory call rightly, bool [n]."""
        set_weights(self.network, tensors)
        return score.right(self._predict(self.holdout.images), self.holdout.labels, self.spec["classes"])

    def read(self, path: Path) -> Mapping[str, np.ndarray]:
        """The tensors of a model file of this architecture, read as they are used."""
        return weights.map_weights(path, self.shapes)

    def outputs_of(self, path: Path, others: images.Images) -> np.ndarray:
        """What the model in a file gives for other images."""
        set_weights(self.network, weights.read_weights(path, self.shapes))
        return self._predict(others.images)

    def score(self, against: np.ndarray | None = None) -> dict[str, Any]:
        """What the weights at hand score.

        Args:
            against: Which images the current model calls rightly, bool [n]; then `rules.gate.PAIRED` is among the
                scores, the standard error of the difference between the two accuracies.

        Raises:
            ValueError: A prediction is not finite, or nothing can be found that was asked for.
        """
        outputs, labels = self._predict(self.holdout.images), self.holdout.labels
        metrics = score.measured(outputs, labels, self.spec)
        if against is not None:
            found = score.right(outputs, labels, self.spec["classes"])
            lost, won = int((against & ~found).sum()), int((~against & found).sum())
            metrics[PAIRED] = standard_error(lost, won, len(found))
        return metrics | (decided(self._decision, outputs, labels, self.spec["classes"]) if self._decision else {})

    def _predict(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [n, height, width, channels] -> float32 [n, outputs]."""
        import numpy as np

        once = max(1, CALL_BYTES // (4 * self._batch * math.prod(pixels.shape[1:]))) * self._batch
        parts = []
        for start in range(0, len(pixels), once):
            some = pixels[start : start + once]
            missing = -len(some) % self._batch
            filled = np.concatenate([some, np.zeros((missing, *some.shape[1:]), np.float32)]) if missing else some
            parts.append(self._forward(filled).numpy()[: len(some)])
        return np.concatenate(parts)


def _batches(network: Any, batch: int, shape: list[int], beside: int) -> Any:
    """A graph from images to outputs, batch by batch, each computed as if it were alone."""
    import tensorflow

    def forward(pixels: Any) -> Any:
        count = tensorflow.shape(pixels)[0] // batch
        found = tensorflow.TensorArray("float32", count, element_shape=(batch, *network.output_shape[1:]))

        def step(number: Any, found: Any) -> tuple[Any, Any]:
            some = tensorflow.ensure_shape(pixels[number * batch : (number + 1) * batch], (batch, *shape))
            outputs = tensorflow.cast(network(some, training=False), "float32")
            return number + 1, found.write(number, outputs)

        _, found = tensorflow.while_loop(lambda number, _: number < count, step, (0, found), parallel_iterations=beside)
        return found.concat()

    return compiled(forward, [tensorflow.TensorSpec((None, *shape), "float32")])


def fingerprint(holdout: images.Images) -> str:
    """SHA-256 of images and labels as the network sees them: which holdout a score belongs to."""
    digest = hashlib.sha256(repr((holdout.images.shape, holdout.labels.shape)).encode())
    digest.update(holdout.images.tobytes())
    digest.update(holdout.labels.tobytes())
    return digest.hexdigest()

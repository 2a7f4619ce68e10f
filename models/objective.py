"""What training makes smaller, and what is told of it: the mean loss of a batch, and how much of it is right.

labels   int64 [n], in 0..classes-1; of several at once int64 [n, labels], 0 or 1; of a regression float32
[n, targets], standardised
outputs  what the network of a spec gives for n examples, see `build`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedssh.models import loss_name, tasks
from fedssh.models.backend import load_keras


@dataclass(frozen=True)
class Kind:
    """Shape and type of an example's label, and the type of what is counted of it."""

    shape: tuple[int, ...] = ()
    labels: str = "int64"
    counted: str = "int64"


PLAIN_KIND = Kind()  # of one class of several


class Objective:
    """The loss and the measure of a network.

    Args:
        spec: Checked.
        loss: The name of a Keras loss; None is the one that fits the network's task.

    Attributes:
        measure: What is told beside the loss: `accuracy`, or `mae`, in the targets' own units.
        task: What the network is for, see `tasks`.
        kind: Of its labels.
    """

    def __init__(self, spec: Mapping[str, Any], loss: str | None = None) -> None:
        import tensorflow

        self._loss = load_keras().losses.get(loss or loss_name(spec))
        self._classes = spec.get("classes")
        self.measure, self.task = tasks.measure_of(spec), tasks.task_of(spec)
        self.kind = PLAIN_KIND
        self._units: Any = None  # float64 [targets]: what an error of 1 is in the targets' own units
        if self.task == tasks.LABELS:
            self.kind = Kind((spec["labels"],), "int64", "float64")
        elif self.task == tasks.REGRESSION:
            units = [one["deviation"] for one in spec["targets"]]
            self._units, self.kind = tensorflow.constant(units, "float64"), Kind((len(units),), "float32", "float64")

    def mean(self, labels: Any, outputs: Any, penalties: Sequence[Any] = (), weights_of: Any = None) -> Any:
        """As Keras has it: weighted losses are divided by the number of examples, not by the sum of the weights.

        Args:
            penalties: What regularizers add.
            weights_of: Of each class: float32 [classes].
        """
        return self.reduced(self.each(labels, outputs), labels, penalties, weights_of)

    def each(self, labels: Any, outputs: Any) -> Any:
        """The loss of each example: float32 [n]."""
        import tensorflow

        truth = tensorflow.cast(labels[:, None], outputs.dtype) if self._classes == 2 else labels
        if self.task == tasks.LABELS:
            truth = tensorflow.cast(labels, outputs.dtype)
        return self._loss(truth, outputs)

    def reduced(self, losses: Any, labels: Any, penalties: Sequence[Any] = (), weights_of: Any = None) -> Any:
        """What `mean` makes of the loss of each example."""
        import tensorflow

        if weights_of is not None:
            losses *= tensorflow.gather(weights_of, labels)
        mean = tensorflow.reduce_mean(losses)
        return tensorflow.add_n([mean, *map(tensorflow.reduce_sum, penalties)]) if penalties else mean

    def right(self, labels: Any, outputs: Any) -> Any:
        """How many predictions are right; of a regression the sum of the absolute errors, in the targets' units."""
        import tensorflow

        if self._units is not None:
            errors = tensorflow.cast(tensorflow.abs(outputs - labels), "float64") * self._units
            return tensorflow.reduce_sum(tensorflow.reduce_mean(errors, axis=1))
        if self.task == tasks.LABELS:  # of each image the share of its labels
            right = tensorflow.cast((outputs > 0.5) == (labels == 1), "float64")
            return tensorflow.reduce_sum(tensorflow.reduce_mean(right, axis=1))
        return tensorflow.math.count_nonzero(self.predicted(outputs) == labels)

    def predicted(self, outputs: Any) -> Any:
        """The class of each image, int64; as Keras, 0.5 is class 0 and the first of equal classes counts."""
        import tensorflow

        if self._classes == 2:
            return tensorflow.cast(outputs[:, 0] > 0.5, tensorflow.int64)
        return tensorflow.argmax(outputs, axis=1, output_type=tensorflow.int64)

"""A loss in training that is calibrated for how a site's labels are divided among the classes.

A site with many images of one class learns to say that class, whatever it sees; the mean of such models says so, too.
Softmax cross-entropy is therefore taken of logits that are moved by what the site's labels tell beforehand:

    loss    -log softmax(z + s)[label]              z: logits of an image; of two classes: of the one sigmoid unit
    s_c     log(site's share of class c) - log(coordinator's share of class c), in -BOUND..BOUND
            of two classes: the log-odds of class 1 at the site minus those at the coordinator, in -BOUND..BOUND
            of a class that the site lacks: -BOUND

That is logit adjustment (Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10 with tau 1), with
the coordinator's labels in the place of balanced ones, by the labels of each site as in FedLC (Zhang et al. 2022,
"Federated learning with label distribution skew via logits calibration"). What the network itself gives, z, then is of
the coordinator's labels at every site. Only the gradient is of this loss: scores and predictions are of z.

Shares are taken as they are. Smoothed, a class of which a site has nothing would have the share of half an image or so,
and its images would go on to push that class down, with a thousandth of their gradient; Adam and its like take steps as
long of a thousandth. The bound, one in 5e8, is beyond every share that is counted, and keeps gradients below the 1e-7
from which these optimizers take them for nothing. So a site has no say on a class that it has never seen (the aim of
Li and Zhan 2021, "FedRS: Federated learning with restricted softmax"), and of two classes a site with only one of them
learns next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BOUND = 20.0


def shift(labels: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """What the logits of a site are moved by in training.

    Args:
        labels: int [n], in 0..classes-1: of the site's training examples, one at least.
        shares: Of each class at the coordinator, above 0; rounded, so their sum may be a little off 1.

    Returns:
        float32 [classes], or [1] where there are two classes; in -BOUND..BOUND.
    """
    counts = np.bincount(np.asarray(labels), minlength=len(shares)) / len(labels)
    with np.errstate(divide="ignore"):
        moved = np.log(counts) - np.log(np.asarray(shares, np.float64) / np.sum(shares))
    if len(shares) == 2:
        moved = moved[1:] - moved[:1]
    bounded: np.ndarray = np.clip(moved, -BOUND, BOUND).astype(np.float32)
    return bounded


def calibrated(outputs: Any, moved: Any) -> Any:
    """A network's outputs in training, with its logits moved; Keras' losses take the logits of what this returns.

    From logits and not from probabilities, which in float32 are 1 from a logit of 17 on and tell no gradient any more.

    Args:
        outputs: What a sigmoid or a softmax of Keras gave, in a graph: float32 [n, 1] or [n, classes].
        moved: As `shift` has it.

    Raises:
        ValueError: They are something else.
    """
    import tensorflow

    logits = getattr(outputs, "_keras_logits", None)
    if logits is None:
        raise ValueError("a calibrated loss needs outputs of a sigmoid or a softmax of Keras")
    activation = tensorflow.sigmoid if outputs.shape[1] == 1 else tensorflow.nn.softmax
    return activation(logits + moved)


def told(labels: np.ndarray, shares: Sequence[float]) -> str:
    """What it means for a site, in a line; which classes it lacks say its own labels.

    Args:
        labels, shares: As `shift` takes them.
    """
    start = "the training loss is calibrated for the labels here"
    here, moved = np.bincount(np.asarray(labels), minlength=len(shares)) > 0, shift(labels, shares)
    if len(shares) == 2:
        if not here.all():
            return f"{start}: all are of one class, so hardly anything is learned from them"
        return f"{start}: the logit of class 1 is moved by {moved[0]:+.2f}; scores stay plain"
    there, lacking = moved[here], int(np.sum(~here))
    without = f", {lacking} of {len(moved)} classes are not here" if lacking else ""
    return f"{start}: logits are moved by {there.min():+.2f} to {there.max():+.2f}{without}; scores stay plain"

"""The coordinator's training plan, as it stands in a release: checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fedssh.errors import BundleError
from fedssh.forms import Form, checked, one_of, shown
from fedssh.rules.label_shares import SHARES
from fedssh.rules.privacy import Privacy, check_privacy, read_privacy
from fedssh.rules.terms import FORMS, LATER, check_calibrate, check_momentum, check_weight_decay, written_loss

_UPDATE = "update fedssh here, and start again"
LOSSES = ("auto", "binary_crossentropy", "sparse_categorical_crossentropy", "mean_squared_error")


@dataclass(frozen=True)
class Plan:
    """How to train: of what is agreed (`terms`), what concerns a site's training.

    Attributes:
        batch_size: Images per step.
        epochs: The most epochs of a session; exactly so many when `publish` is `session`.
        patience: Epochs without a lower validation loss after which a session ends.
        optimizer: Of Keras.
        learning_rate: Greater than 0.
        loss: `binary_crossentropy`, `sparse_categorical_crossentropy`, of a regression `mean_squared_error` of the
            standardised targets, or `auto`: the one that fits the network.
        publish: `improved`: every checkpoint that is better than the best so far, until patience is over. `session`:
            the weights at the end of the session, once, whatever they score.
        momentum: Of the optimizer sgd, in 0..1 without 1.
        proximal: The mu of FedProx (Li et al. 2020), at least 0: how strongly training is pulled to the release.
        class_weights: `balanced`: in the loss of training, an example counts n / (present classes * examples of its
            class) times, by the site's own training images. Scores, and with them what improved, are not weighted.
        learning_rate_schedule: Over the `epochs` of a session. `step`: a tenth of the rate after half of what follows
            the warm-up, a hundredth after three quarters. `cosine`: along half a cosine down to 0.
        warmup: Steps at the beginning of a session in which the rate rises from 0; `N epochs` are those of N epochs.
        clip_norm: What a step's gradient is scaled down to where it is longer, all weights together; 0 is no limit.
        weight_decay: Each step takes this times the rate off every weight, beside the gradient (Loshchilov and Hutter
            2019); with `adamw` and `sgd` only. Without it `adamw` has Keras' 0.004, and the others have none.
        augment: Some of `flips`, `shifts`, `rotations` and `contrast`: changed training images, anew in every step.
        local: `batchnorm`: each site goes on from its own batch normalisation, all weights of it, and from the release
            in all else (FedBN, Li et al. 2021). What it sends is whole; what is averaged of these serves whoever has
            none of their own: the coordinator's scores, and a site that begins.
        site_rates: The smallest part of `learning_rate` and `batch_size` that a site may take; at 1, none may.
        precision: `mixed`: layers compute in bfloat16, from and into weights in float32; output and loss are float32.
            The coordinator scores in float32.
        calibrate: `labels`: the loss of training is calibrated for the site's labels (`models.calibrated`; Menon et al.
            2021, Zhang et al. 2022). Scores, and with them what improved, are plain.
        label_shares: Where it is: of each class the share of the coordinator's holdout, see `label_shares`.
        unlabelled: `fixmatch:…` or `autoencoder:…`: sites learn from images without labels, too (`models.fixmatch`;
            Sohn et al. 2020; `models.autoencoder`; Gupta and Raskar 2018). Those with labels are counted,
            scored and held out as ever.
        privacy: Units are hidden by clipped gradients and noise, up to a budget (`privacy`; Abadi et al. 2016); nothing
            that is measured on a site's images leaves it. In rounds only.
        metric: What the policy compares first. `balanced_accuracy` and `f1` also take the place of accuracy where a
            site tells what improved; its claims say loss and accuracy all the same.
    """

    batch_size: int
    epochs: int
    patience: int
    optimizer: str
    learning_rate: float
    loss: str
    publish: str = "improved"
    momentum: float = 0.0
    proximal: float = 0.0
    class_weights: str = "none"
    learning_rate_schedule: str = "constant"
    warmup: int | str = 0
    clip_norm: float = 0.0
    weight_decay: float | None = None
    augment: str = "none"
    local: str = "none"
    site_rates: float = 1.0
    precision: str = "float32"
    calibrate: str = "none"
    label_shares: tuple[float, ...] = ()
    unlabelled: str = "none"
    privacy: Privacy | None = None
    metric: str = "accuracy"


# What programs before these meant.
_OLDER = {"patience": 10, "publish": "improved", "momentum": 0.0, "proximal": 0.0, "metric": "accuracy"}


def read_plan(given: Mapping[str, Any]) -> Plan:
    """Take the plan out of a release. Older programs leave out some fields.

    Raises:
        BundleError: A field is missing or out of range, or is one that this program does not know: all sites train by
            the whole plan, or not at all.
    """
    found = {**_OLDER, **given}
    forms = {**FORMS, "loss": one_of(*LOSSES), "label_shares": SHARES, "privacy": Form(read_privacy)}
    optional = (*LATER, "label_shares")
    names = [field.name for field in fields(Plan) if field.name not in optional or field.name in given]
    if unknown := sorted(given.keys() - {field.name for field in fields(Plan)}):
        raise BundleError(f"the training plan says {shown(unknown[0])}, which this program does not know", _UPDATE)
    found["loss"] = _plain_loss(given)
    try:
        plan = Plan(**{name: checked(f"{name!r} of the training plan", found.get(name), forms[name]) for name in names})
    except ValueError as error:
        raise BundleError(str(error)) from None
    try:
        check_momentum(plan.momentum, plan.optimizer)
    except ValueError as error:
        raise BundleError(f"'momentum' of the training plan is {plan.momentum:g}, but {error}") from None
    try:
        check_weight_decay(plan.weight_decay, plan.optimizer)
    except ValueError as error:
        raise BundleError(f"'weight_decay' of the training plan is {plan.weight_decay:g}, but {error}") from None
    try:
        check_calibrate(plan.calibrate, plan.class_weights)
    except ValueError as error:
        raise BundleError(f"the training plan's {error}") from None
    try:
        check_privacy(vars(plan), {field.name: field.default for field in fields(Plan)})
    except ValueError as error:
        raise BundleError(f"the training plan's {error}") from None
    if plan.privacy is not None and plan.publish != "session":
        raise BundleError("'privacy' of the training plan belongs to rounds")
    if (plan.calibrate != "none") != bool(plan.label_shares):
        there = "has" if plan.label_shares else "lacks"
        raise BundleError(f"the training plan {there} 'label_shares', and its 'calibrate' is {plan.calibrate}")
    if plan.local != "none" and plan.publish != "session":
        raise BundleError(f"'local' of the training plan is {plan.local}, but it belongs to rounds")
    return plan


def _plain_loss(given: Mapping[str, Any]) -> Any:
    """The loss without what it names of the plan, see `written_loss`."""
    loss = given.get("loss")
    if not isinstance(loss, str):
        return loss
    plain = loss.partition(" with ")[0]
    if (expected := written_loss(dict(given), plain)["loss"]) != loss:
        raise BundleError(f"'loss' of the training plan is {shown(loss, 200)}, by its other members {expected!r}")
    return plain

"""What a run's last model tells of who was trained on, and what privacy that was bounded by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from experiments.definition.config import Prepared, Run
from experiments.engines.memory.trainers import divided
from fedssh.models import build, set_weights
from fedssh.models.losses import Losses
from fedssh.models.training import resident
from fedssh.rules.events import Record
from fedssh.rules.membership import by_loss


def audited(
    run: Run, prepared: Prepared, weights: Mapping[str, np.ndarray], records: Iterable[Record]
) -> dict[str, float]:
    """The attack by a threshold on the loss, as `charity audit` makes it: members are the images of all sites.

    Others are the holdout: images like them on which nobody trained, where a test split may be of other kinds.

    Args:
        weights: Of the model that is attacked.
        records: Of the run.

    Returns:
        `auc` and `advantage`, see `fedssh.rules.membership`; `epsilon`, the most that a site has spent, where privacy
        is agreed. Empty where the run does not ask for it.
    """
    if not run.membership:
        return {}
    network = build(prepared.spec)
    set_weights(network, weights)
    each = Losses(network, prepared.spec)
    members = [
        divided(prepared.parts[name], run.validation, run.site_seed(number))[0]
        for number, name in enumerate(run.site_names, 1)
    ]
    inside = [each.of(resident(part, prepared.spec)) for part in members]
    found = by_loss(np.concatenate(inside), each.of(resident(prepared.holdout, prepared.spec)))
    spent = [record.fields["privacy"]["spent"] for record in records if record.fields.get("privacy")]
    told = {"auc": found.auc.value, "advantage": found.advantage.value}
    return told | ({"epsilon": max(spent)} if spent else {})

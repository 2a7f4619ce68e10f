"""What training costs one site of a run, counted beforehand as `charity plan` counts it, see `fedssh.rules.costs`."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from fedssh.forms import canonical
from fedssh.models.costs import Cost, Share, of_spec
from fedssh.rules.costs import FedAvg, Piece, Split, Way, client_bytes, slots_of
from fedssh.rules.plan import Plan
from fedssh.rules.policies import Policy
from fedssh.rules.policies.split import cuts
from fedssh.split.turn import labels_size


def per_site(spec: Mapping[str, Any], plan: Plan, policy: Policy, images: float) -> dict[str, float]:
    """What a site of so many images computes and sends.

    Returns:
        `images`; `multiply_adds`, of one image in one epoch of training; `bytes`, both ways in one session. That a
        site receives the releases of others' turns, too, is not counted. Empty where a layer's multiply-adds cannot be.
    """
    try:
        whole, every = _counted(canonical(dict(spec)))
    except ValueError:
        return {}
    way = _way(spec, plan, policy, whole, every)
    both = client_bytes(way, round(images), plan.batch_size, plan.epochs)
    return {"images": float(images), "multiply_adds": float(way.multiply_adds()), "bytes": float(both.total)}


@functools.cache
def _counted(spec: bytes) -> tuple[Share, list[Cost]]:
    return of_spec(json.loads(spec))


def _way(spec: Mapping[str, Any], plan: Plan, policy: Policy, whole: Share, every: list[Cost]) -> Way:
    if not policy.split:
        return FedAvg(_piece(whole))
    at = {cost.layer: cost for cost in every}
    first, *second = (at[layer] for layer in cuts(policy.values))
    end, end_floats = (_piece(second[0].after), second[0].floats) if second else (None, 0)
    return Split(
        _piece(first.before), first.floats, str(policy.values["wire"]), slots_of(plan.optimizer, plan.momentum),
        labels_size(spec), end, end_floats, policy.rounds,
    )  # fmt: skip


def _piece(share: Share) -> Piece:
    return Piece(**vars(share))

"""What federated averaging and split learning would cost the sites of a federation, counted for `charity plan`.

That loads Keras, but makes none of the network's weights; see `models.costs` for what is counted, and `rules.costs`
for what is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedssh.errors import SettingsError
from fedssh.models import check_spec
from fedssh.models.costs import Cost, NoCut, Share, of_spec
from fedssh.rules.costs import (
    SHOWN,
    WIRES,
    FedAvg,
    LargeBatch,
    Line,
    Piece,
    Split,
    Way,
    break_even,
    client_bytes,
    client_multiply_adds,
    published_break_even,
    releases,
    slots_of,
    steps_per_second,
    waiting_seconds,
    worth_a_look,
)
from fedssh.split.turn import labels_size


@dataclass(frozen=True)
class Training:
    """How the sites train.

    Attributes:
        images: Of each site.
        sites: How many there are.
        epochs: In a round or turn.
        batch: Images in a step.
        optimizer, momentum: As in the training plan.
    """

    images: int
    sites: int
    epochs: int
    batch: int
    optimizer: str
    momentum: float


@dataclass(frozen=True)
class Asked:
    """What is asked of a split network.

    Attributes:
        line: Between a site and the coordinator.
        wire: How numbers pass a cut.
        labels: `coordinator`, or `site`: the U shape, with two cuts.
        parallel: Whether all sites train at once (`splitfed`), and not in turn (`split`).
        cut: The layer or the two layers that are asked for; empty takes what is worth a look.
        every: Whether all cuts are told.
        compute_seconds: What both sides compute for a step.
    """

    line: Line
    wire: str = "f16"
    labels: str = "coordinator"
    parallel: bool = False
    cut: tuple[str, ...] = ()
    every: bool = False
    compute_seconds: float = 0.0


def compared(spec: Mapping[str, Any], training: Training, asked: Asked) -> dict[str, Any]:
    """Both ways of training, beside each other: as `charity plan --json` shows them.

    Raises:
        SettingsError: The network cannot be cut as asked; names the cuts that there are.
        ValueError: What it computes cannot be counted.
    """
    spec = check_spec(spec)
    whole, cuts = _counted(spec, asked.cut)
    network = _piece(whole)
    fedavg = FedAvg(network)
    rows = [
        _row(cut, second, split, fedavg, training, asked)
        for cut, second, split in _splits(cuts, spec, training, asked)
    ]  # fmt: skip
    shown = _shown(rows, asked)
    return {
        "network": {"spec": spec, **vars(whole), "bytes": fedavg.turn().up},
        "training": vars(training),
        "line": vars(asked.line) | {"compute_seconds": asked.compute_seconds},
        "wire": asked.wire,
        "labels": asked.labels,
        "order": "parallel" if asked.parallel else "turns",
        "fedavg": _way(fedavg, training, asked.line),
        "large_batch": _way(LargeBatch(network), training, asked.line),
        "release_bytes": releases(network, 1 if asked.parallel else training.sites).down,
        "cuts": shown,
        "left_out": len(rows) - len(shown),
        "chosen": _chosen(shown, asked)["cut"],
    }


def _counted(spec: Mapping[str, Any], named: Sequence[str]) -> tuple[Share, list[Cost]]:
    try:
        whole, cuts = of_spec(spec, named)
    except NoCut as error:
        raise SettingsError(f"--cut: {error}") from None
    if not cuts:
        raise SettingsError(f"{spec['name']} cannot be cut: everything that it has to learn is in one layer")
    return whole, cuts


def _splits(
    cuts: Sequence[Cost], spec: Mapping[str, Any], training: Training, asked: Asked
) -> Iterable[tuple[Cost, Cost | None, Split]]:
    """A cut, or with the U shape each with the last one, and what the network is that is cut there."""
    places = {cut.layer: number for number, cut in enumerate(cuts)}
    more: dict[str, Any] = {
        "wire": asked.wire,
        "slots": slots_of(training.optimizer, training.momentum),
        "label_bytes": labels_size(spec),
        "anew": asked.parallel,
    }
    if asked.labels != "site":
        if len(asked.cut) > 1:
            raise SettingsError(f"--cut names {len(asked.cut)} cuts", "with --labels site there are two")
        for cut in cuts:
            yield cut, None, Split(_piece(cut.before), cut.floats, **more)
        return
    if len(asked.cut) > 2 or (len(asked.cut) == 2 and places[asked.cut[0]] >= places[asked.cut[1]]):
        raise SettingsError(f"--cut is {','.join(asked.cut)}", "with --labels site it is FIRST,SECOND in this order")
    second = cuts[places[asked.cut[1]]] if len(asked.cut) == 2 else cuts[-1]
    firsts = cuts[: places[second.layer]]
    if not firsts or (asked.cut and asked.cut[0] == second.layer):
        raise SettingsError(f"--labels site: nothing is left between the cut after {second.layer} and a second one")
    for cut in firsts:
        yield (
            cut,
            second,
            Split(_piece(cut.before), cut.floats, **more, end=_piece(second.after), end_floats=second.floats),
        )


def _piece(share: Share) -> Piece:
    return Piece(**vars(share))


def _way(way: Way, training: Training, line: Line) -> dict[str, Any]:
    """What a round or turn costs a site."""
    images, epochs, batch = training.images, training.epochs, training.batch
    sent = client_bytes(way, images, batch, epochs)
    return {
        "bytes_down": sent.down,
        "bytes_up": sent.up,
        "multiply_adds": client_multiply_adds(way, images, epochs),
        "waiting_seconds": round(waiting_seconds(way, images, batch, line, epochs), 3),
    }


def _row(
    cut: Cost, second: Cost | None, split: Split, fedavg: FedAvg, training: Training, asked: Asked
) -> dict[str, Any]:
    rows, network = min(training.batch, training.images), fedavg.network
    wires = {}
    for wire in WIRES:
        way = Split(**{**vars(split), "wire": wire})
        floats = cut.floats + (second.floats if second else 0)
        wires[wire] = {
            **_way(way, training, asked.line),
            "break_even_images": break_even(way, fedavg, training.batch, training.epochs),
            "published_break_even_images": round(
                published_break_even(network.weights, floats, wire, training.epochs), 1
            ),
            "steps_per_second": round(steps_per_second(way, rows, asked.line, asked.compute_seconds), 2),
        }
    return {
        "cut": [cut.layer, *([second.layer] if second else [])],
        "floats": cut.floats,
        "site_weights": split.head.weights + (split.end.weights if split.end else 0),
        "before": vars(cut.before),
        "of_forward": round(_forward(split) / network.multiply_adds, 6),
        "of_fedavg": round(split.multiply_adds() / fedavg.multiply_adds(), 6),
        "turn_bytes": split.turn().up,
        "wires": wires,
    }


def _forward(split: Split) -> int:
    return split.head.multiply_adds + (split.end.multiply_adds if split.end else 0)


def _shown(rows: list[dict[str, Any]], asked: Asked) -> list[dict[str, Any]]:
    if asked.every or len(rows) <= SHOWN:
        return rows
    worth = worth_a_look([row["floats"] for row in rows])
    named = asked.cut[:1]
    return [row for row, good in zip(rows, worth, strict=True) if good or row["cut"][0] in named]


def _chosen(rows: list[dict[str, Any]], asked: Asked) -> dict[str, Any]:
    """The cut that is asked for; or of those with which a site computes at most half, the one that sends least.

    Where there is none of these, the one with which it computes least.
    """
    if asked.cut:
        return next(row for row in rows if row["cut"][0] == asked.cut[0])
    half = [row for row in rows if row["of_fedavg"] <= 0.5]
    if not half:
        return min(rows, key=lambda row: float(row["of_fedavg"]))
    return min(half, key=lambda row: _sent(row["wires"][asked.wire]))


def _sent(way: Mapping[str, Any]) -> int:
    return int(way["bytes_down"]) + int(way["bytes_up"])

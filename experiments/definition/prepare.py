"""The data of a run: a data set, reduced and divided as the run says. Same run, same arrays."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.definition import backdoor
from experiments.definition.attack import IN_THE_DATA
from experiments.definition.config import Prepared, Run
from fedssh.errors import SettingsError
from fedssh.models import TABLE, check_spec, tasks

if TYPE_CHECKING:
    import numpy as np

    from experiments.definition.attack import Attack
    from fedssh.models.data.datasets import Dataset
    from fedssh.models.data.images import Images

HOLDOUT_OF_FOLDS = 0.1  # of the images outside the fold: what the coordinator judges by
LEAST_PER_SITE = 2


def prepare(run: Run, folder: Path) -> Prepared:
    """Load and divide the data of a run.

    The order: folds if asked for, then outliers, a number per label and a number in all are taken from train, then
    the coordinator's share, then the sites' parts, then of each part those that keep their labels.

    Args:
        run: What to prepare.
        folder: Where named data sets, files and given weights are.

    Raises:
        SettingsError: The data is not there, or does not suffice for the run.
    """
    wanted = run.data
    try:
        dataset = _open(wanted["dataset"], folder)
        if dataset.task != tasks.CLASSES:
            _check_task(dataset.task, run)
        if dataset.columns and "augment" in run.plan:
            raise ValueError(f"augment changes images, and {dataset.name} is a table")
        if run.attack and run.attack.kind == "backdoor":
            _check_backdoor(run.attack, dataset)
        train, holdout, test = _splits(dataset, run)
        train = _reduced(train, run)
        own, shared = _shared_out(train, wanted["coordinator"], run.seed)
        of_task: dict[str, Any] = {"classes": dataset.classes}
        if dataset.task == tasks.REGRESSION:
            of_task = {"task": dataset.task, "targets": tasks.figures((own or holdout).labels)}
        kind = {"kind": TABLE} if dataset.columns else {}
        if dataset.task == tasks.LABELS:
            of_task = {"task": dataset.task, "labels": dataset.classes}
        spec = check_spec({**run.architecture, "input": list(dataset.input), **of_task, **kind})
        parts = _parts(own, shared, run, dataset.classes)
        parts, unlabelled = _labelled(parts, run, dataset.columns is not None)
        weights = _given(wanted["weights"], folder)
    except (ValueError, OSError) as error:
        raise SettingsError(f"{run.slug}: {error}", "--data-dir says where data sets are") from None
    prepared = Prepared(
        spec=spec,
        train=own,
        holdout=_at_most(holdout, wanted["holdout"], run.seed),
        test=_at_most(test, wanted["test"], run.seed),
        parts=parts,
        weights=weights,
        columns=dataset.columns,
        unlabelled=unlabelled,
    )
    return _standardised(prepared) if dataset.columns else prepared


def _standardised(rows: Prepared) -> Prepared:
    """A table's rows by the figures that her training rows give, as in a federation; without such rows, her holdout."""
    from fedssh.models.data import datasets

    assert rows.columns is not None
    own = rows.train if rows.train is not None else rows.holdout
    every = [rows.holdout, rows.test, *rows.parts.values(), *([rows.train] if rows.train is not None else [])]
    holdout, test, *parts = datasets.standardised(rows.columns, own, every)
    train = parts.pop() if rows.train is not None else None
    named = dict(zip(rows.parts, parts, strict=True))
    return dataclasses.replace(rows, train=train, holdout=holdout, test=test, parts=named, as_they_stand=rows)


def _check_task(task: str, run: Run) -> None:
    """Raise ValueError where a run divides by classes what has none."""
    by_class = {
        "folds": run.data["folds"], "per_label": run.data["per_label"], "outliers": run.data["outliers"],
        "a partition": run.data["partition"] not in ("iid", "by_patient"),
        f"the attack {run.attack.kind if run.attack else ''}": bool(run.attack and run.attack.kind in IN_THE_DATA),
    }  # fmt: skip
    if named := [name for name, wanted in by_class.items() if wanted]:
        raise ValueError(f"{named[0]} by class needs classes, but the task of {run.data['dataset']} is {task}")


def _check_backdoor(attack: Attack, dataset: Dataset) -> None:
    """Raise ValueError where there is nothing to stamp, or no such class."""
    if dataset.columns:
        raise ValueError(f"the attack backdoor stamps images, and {dataset.name} is a table")
    if attack.value >= dataset.classes:
        raise ValueError(
            f"the attack {attack.text} wants class {attack.value:g}, the last one is {dataset.classes - 1}"
        )


@lru_cache(maxsize=1)
def _open(name: str, folder: Path) -> Dataset:
    """Loaded once for all runs of a process that follow each other."""
    from fedssh.models.data import datasets

    near = folder / name
    return datasets.open_dataset(name if name in datasets.NAMES or not near.exists() else str(near), folder)


def _splits(dataset: Dataset, run: Run) -> tuple[Images, Images, Images]:
    """Train, holdout and test: the published ones, or test is one fold of train and val."""
    splits, folds = dataset.splits, run.data["folds"]
    if not folds:
        return splits["train"], splits["val"], splits["test"]
    from fedssh.models.data import datasets, partition

    pool = _joined(splits["train"], splits["val"])
    rest, fold = partition.folds(pool.labels, folds, run.seed)[run.data["fold"] - 1]
    train, holdout = datasets.cut(pool.take(rest), HOLDOUT_OF_FOLDS, run.seed)
    return train, holdout, pool.take(fold)


def _reduced(train: Images, run: Run) -> Images:
    from fedssh.models.data import outliers, partition

    if run.data["outliers"]:
        train = train.take(outliers.drop_outliers(train.images, train.labels, run.data["outliers"]))
    if run.data["per_label"]:
        train = train.take(partition.per_label(train.labels, run.data["per_label"], run.seed))
    return _at_most(train, run.data["train"], run.seed)


def _at_most(images: Images, number: int, seed: int) -> Images:
    """So many examples at most, the shares of the classes kept."""
    if not 0 < number < len(images):
        return images
    from fedssh.models.data.images import hold_out

    return images.take(hold_out(images.labels, number / len(images), seed)[1])


def _shared_out(train: Images, share: float, seed: int) -> tuple[Images | None, Images]:
    """The coordinator's images and the sites'."""
    if not share:
        return None, train
    from fedssh.models.data import datasets

    shared, own = datasets.cut(train, share, seed)
    return own, shared


def _parts(own: Images | None, shared: Images, run: Run, classes: int) -> dict[str, Images]:
    from fedssh.models.data import partition

    if run.schedule == "centralised":
        return {run.site_names[0]: shared if own is None else _joined(own, shared)}
    indices = partition.split(
        run.data["partition"],
        shared.labels if shared.labels.ndim == 1 else shared.labels[:, 0],
        run.sites,
        run.seed,
        shared.patients,
        LEAST_PER_SITE,
    )
    parts = {name: shared.take(part) for name, part in zip(run.site_names, indices, strict=True)}
    if run.attack and run.attack.kind == "label-flip":
        for name in run.attackers:
            parts[name] = dataclasses.replace(parts[name], labels=classes - 1 - parts[name].labels)
    if run.attack and run.attack.kind == "backdoor":
        for number, name in enumerate(run.site_names, 1):
            if name in run.attackers:
                parts[name] = backdoor.poisoned(parts[name], run.attack, run.site_seed(number))
    return parts


def _labelled(parts: dict[str, Images], run: Run, table: bool) -> tuple[dict[str, Images], dict[str, np.ndarray]]:
    """Of each site's images those whose labels are known, the shares of the classes kept; the others without labels."""
    from fedssh.models.data.images import hold_out

    share = run.data.get("labelled", 1.0)
    if share == 1:
        return parts, {}
    if table:
        raise ValueError(f"labelled is {share:g}, and rows of a table have their labels")
    labelled, others = {}, {}
    for number, (name, images) in enumerate(parts.items(), 1):
        without, known = hold_out(images.labels, share, run.site_seed(number), images.patients)
        labelled[name], others[name] = images.take(known), images.images[without]
        if len(known) < LEAST_PER_SITE:
            raise ValueError(f"{name} has {len(known)} labels, at least {LEAST_PER_SITE} are needed")
    return labelled, others


def _joined(first: Images, second: Images) -> Images:
    import numpy as np

    from fedssh.models.data.images import Images

    patients = None
    if first.patients is not None and second.patients is not None:
        patients = np.concatenate([first.patients, second.patients])
    images = np.concatenate([first.images, second.images])
    return Images(images, np.concatenate([first.labels, second.labels]), patients)


def _given(name: str, folder: Path) -> Path | None:
    """The file of given first weights."""
    if not name:
        return None
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name} is neither in {folder} nor a file")

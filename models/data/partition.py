"""Dividing one set of examples among sites, or into folds. Same seed, same parts; every example in exactly one part.

`split` understands the rules by name:

    iid               equal parts with the same shares of the classes
    dirichlet:ALPHA   equal parts, whose shares of the classes are drawn (Hsu, Qi and Brown 2019)
    skew:ALPHA        of every class the parts' shares are drawn, so parts differ in size, too (Yurochkin et al. 2019)
    classes:K         parts of K classes each (Li et al. 2022)
    shards:N          parts of N pieces each of what is sorted by class (McMahan et al. 2017)
    by_patient        no patient is in two parts

`folds` divides for k-fold validation, and `per_label` takes as many examples of every class.
"""

from __future__ import annotations

import math
import re

import numpy as np

RULES = "iid, dirichlet:ALPHA, skew:ALPHA, classes:K, shards:N or by_patient"
MINIMUM = 10  # examples that every part gets at least
MOST_DRAWS = 1000  # of shares, until every part has enough


def split(
    rule: str, labels: np.ndarray, parts: int, seed: int, patients: np.ndarray | None = None, minimum: int = MINIMUM
) -> list[np.ndarray]:
    """Divide by the name of a rule; the arguments and results are those of the rule's function.

    Raises:
        ValueError: No such rule, or the examples do not suffice for it.
    """
    name, _, parameter = rule.partition(":")
    if rule == "iid":
        return iid(labels, parts, seed, minimum)
    if rule == "by_patient":
        if patients is None:
            raise ValueError("the data does not say which patient an image is of, so it cannot be split by_patient")
        return by_patient(patients, parts, seed)
    try:
        if name in ("dirichlet", "skew"):
            drawn = dirichlet if name == "dirichlet" else skew
            return drawn(labels, parts, seed, float(parameter), minimum)
        if name in ("classes", "shards"):
            counted = by_classes if name == "classes" else shards
            return counted(labels, parts, seed, int(parameter), minimum)
    except ValueError as error:
        if not re.match("could not convert|invalid literal", str(error)):
            raise
    raise ValueError(f"{rule!r} is no partition, expected {RULES}")


def iid(labels: np.ndarray, parts: int, seed: int, minimum: int = MINIMUM) -> list[np.ndarray]:
    """Parts of equal size, up to one example, in which every class has the share that it has in the whole.

    Args:
        labels: int [n].
        parts: At least 1.
        seed: The same seed gives the same parts.
        minimum: Fewer examples per part are an error.

    Returns:
        For each part the indices of its examples, ascending.
    """
    _enough(len(labels), parts, minimum)
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    return [np.sort(by_class[part::parts]) for part in range(parts)]


def dirichlet(labels: np.ndarray, parts: int, seed: int, alpha: float, minimum: int = MINIMUM) -> list[np.ndarray]:
    """Parts of equal size, up to one example, whose shares of the classes differ (Hsu, Qi and Brown 2019, section 3).

    Each part draws its own class shares from Dirichlet(alpha * shares in the whole) and takes examples by them without
    replacement. A class that is used up drops out, the others share its place. A large alpha approaches `iid`; near 0 a
    part has hardly more than one class.

    Args:
        labels: int [n].
        parts: At least 1.
        seed: The same seed gives the same parts.
        alpha: Greater than 0.
        minimum: Fewer examples per part are an error.
    """
    _alpha(alpha)
    _enough(len(labels), parts, minimum)
    random = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    waiting = [list(random.permutation(np.flatnonzero(labels == number))) for number in classes]
    result = []
    for part in range(parts):
        size = len(labels) // parts + (part < len(labels) % parts)
        shares = random.dirichlet(alpha * counts / counts.sum())
        result.append(_take(waiting, shares, size, random))
    return result


def skew(labels: np.ndarray, parts: int, seed: int, alpha: float, minimum: int = MINIMUM) -> list[np.ndarray]:
    """Of every class the parts get shares from Dirichlet(alpha), so that they differ in size and in classes.

    As Yurochkin et al. 2019, section 4, and NIID-Bench (Li, Diao, Chen and He 2022, section IV.A) have it: drawn anew
    until every part has enough.

    Args:
        labels: int [n].
        parts: At least 1.
        seed: The same seed gives the same parts.
        alpha: Greater than 0.
        minimum: Fewer examples per part are an error.

    Returns:
        For each part the indices of its examples, ascending.
    """
    _alpha(alpha)
    _enough(len(labels), parts, minimum)
    random = np.random.default_rng(seed)
    places = [random.permutation(np.flatnonzero(labels == number)) for number in np.unique(labels)]
    for _ in range(MOST_DRAWS):
        found: list[list[np.ndarray]] = [[] for _ in range(parts)]
        for place in places:
            cuts = np.cumsum(random.dirichlet(np.full(parts, alpha)))[:-1] * len(place)
            for part, piece in zip(found, np.split(place, cuts.astype(int)), strict=True):
                part.append(piece)
        result = [np.sort(np.concatenate(pieces)) for pieces in found]
        if min(map(len, result)) >= minimum:
            return result
    raise ValueError(
        f"in {MOST_DRAWS} draws from Dirichlet({alpha:g}) some of {parts} parts had fewer than {minimum} examples"
    )


def by_classes(labels: np.ndarray, parts: int, seed: int, number: int, minimum: int = MINIMUM) -> list[np.ndarray]:
    """Parts of `number` classes each; a class is divided evenly among the parts that have it.

    As NIID-Bench has it (Li, Diao, Chen and He 2022, section IV.A, "#C = k"): the first class of part i is class i,
    counted round, the others are drawn. With fewer parts than classes some examples would be nobody's: the first
    classes then go round once more, so a part may have more than `number`.

    Args:
        labels: int [n].
        parts: At least 1.
        seed: The same seed gives the same parts.
        number: Classes per part, from 1 to how many there are.
        minimum: Fewer examples per part are an error.

    Returns:
        For each part the indices of its examples, ascending.
    """
    classes = np.unique(labels)
    if not 1 <= number <= len(classes):
        raise ValueError(f"parts of {number} classes each cannot be made of {len(classes)} classes")
    _enough(len(labels), parts, minimum)
    random = np.random.default_rng(seed)
    owners: list[list[int]] = [[] for _ in classes]
    for part in range(parts):
        first = part % len(classes)
        others = random.permutation([place for place in range(len(classes)) if place != first])[: number - 1]
        for place in (first, *others):
            owners[place].append(part)
    for place in range(parts, len(classes)):
        if not owners[place]:
            owners[place].append(place % parts)
    found: list[list[np.ndarray]] = [[np.array([], dtype=np.int64)] for _ in range(parts)]
    for name, having in zip(classes, owners, strict=True):
        pieces = np.array_split(random.permutation(np.flatnonzero(labels == name)), len(having))
        for part, piece in zip(having, pieces, strict=True):
            found[part].append(piece)
    result = [np.sort(np.concatenate(pieces)) for pieces in found]
    if min(map(len, result)) < minimum:
        raise ValueError(f"{number} classes each leave one of {parts} parts with {min(map(len, result))} examples")
    return result


def shards(labels: np.ndarray, parts: int, seed: int, number: int, minimum: int = MINIMUM) -> list[np.ndarray]:
    """Parts of `number` shards each, of what is sorted by class and cut into shards of equal size, up to one example.

    McMahan, Moore, Ramage, Hampson and Arcas 2017, section 3, "pathological non-IID": 200 shards of 300 digits, two for
    each of a hundred clients, so that most have examples of two classes.

    Args:
        labels: int [n].
        parts: At least 1.
        seed: The same seed gives the same parts.
        number: Shards per part, at least 1.
        minimum: Fewer examples per part are an error.

    Returns:
        For each part the indices of its examples, ascending.
    """
    _enough(len(labels), parts, max(minimum, number))
    if number < 1:
        raise ValueError(f"a part has {number} shards, expected at least 1")
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    pieces = np.array_split(order[np.argsort(labels[order], kind="stable")], parts * number)
    drawn = random.permutation(len(pieces)).reshape(parts, number)
    return [np.sort(np.concatenate([pieces[place] for place in places])) for places in drawn]


def by_patient(patients: np.ndarray, parts: int, seed: int) -> list[np.ndarray]:
    """Parts of about equal size such that no patient's images are in two of them.

    The patient with the most images goes first, each to the part that is smallest so far; the seed decides among
    equals.

    Args:
        patients: [n], any values that tell patients apart.
        parts: At most the number of patients.
        seed: The same seed gives the same parts.
    """
    names, owner, counts = np.unique(patients, return_inverse=True, return_counts=True)
    if parts < 1 or len(names) < parts:
        raise ValueError(f"{len(names)} patients cannot be divided among {parts} parts")
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    part_of, sizes = np.zeros(len(names), dtype=np.int64), np.zeros(parts, dtype=np.int64)
    for name in order:
        part_of[name] = sizes.argmin()
        sizes[part_of[name]] += counts[name]
    return [np.flatnonzero(part_of[owner] == part) for part in range(parts)]


def folds(labels: np.ndarray, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide for k-fold validation: each example is validated on once, and every fold keeps the shares of the classes.

    Args:
        labels: int [n].
        k: At least 2, and at most the size of the smallest class.
        seed: 0..2**32-1; the same seed gives the same folds.

    Returns:
        For each fold the indices to train on and those to validate on, each ascending.

    Raises:
        ValueError: A class has fewer than k examples, or k is less than 2.
    """
    from sklearn.model_selection import StratifiedKFold

    classes, counts = np.unique(labels, return_counts=True)
    if k < 2 or not len(classes) or counts.min() < k:
        least = f"class {classes[counts.argmin()]} has {counts.min()}" if len(classes) else "there are none"
        raise ValueError(f"{k} folds need k >= 2 and at least k examples of every class, {least}")
    rule = StratifiedKFold(k, shuffle=True, random_state=seed)
    return [(train, val) for train, val in rule.split(np.zeros(len(labels)), labels)]


def per_label(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Draw `number` examples of every class without replacement.

    Args:
        labels: int [n].
        number: At least 1, and at most the size of the smallest class.
        seed: The same seed gives the same examples.

    Returns:
        Their indices, ascending.

    Raises:
        ValueError: A class has fewer examples.
    """
    classes, counts = np.unique(labels, return_counts=True)
    for one, count in zip(classes, counts, strict=True):
        if not 1 <= number <= count:
            raise ValueError(f"class {one} has {count} examples, {number} cannot be drawn from them")
    random = np.random.default_rng(seed)
    drawn = [random.choice(np.flatnonzero(labels == one), number, replace=False) for one in classes]
    return np.sort(np.concatenate(drawn)) if drawn else np.array([], dtype=np.int64)


def _take(waiting: list[list[int]], shares: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Remove `size` examples from the classes' stocks, as near to `shares` as the stocks allow."""
    taken: list[int] = []
    while len(taken) < size:
        weights = np.where([bool(stock) for stock in waiting], shares, 0.0)
        if not weights.sum() > 0:  # a share so small that it counts as 0 may be all that is left
            weights = np.array([float(len(stock)) for stock in waiting])
        wanted = random.multinomial(size - len(taken), weights / weights.sum())
        for stock, number in zip(waiting, wanted, strict=True):
            taken += [stock.pop() for _ in range(min(int(number), len(stock)))]
    return np.sort(np.array(taken, dtype=np.int64))


def _alpha(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha of the Dirichlet distribution must be greater than 0, found {alpha:g}")


def _enough(examples: int, parts: int, minimum: int) -> None:
    if parts < 1 or examples < parts * max(minimum, 1):
        raise ValueError(f"{examples} examples do not suffice for {parts} parts of at least {minimum}")

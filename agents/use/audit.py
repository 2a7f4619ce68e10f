"""What `alice audit` and `charity audit` share: a model attacked with images of which the truth is known.

Nothing heavy is imported before an audit begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedssh.commands import print_json, print_table
from fedssh.errors import AgentError, SettingsError

if TYPE_CHECKING:
    from fedssh.models.data.images import Images
    from fedssh.models.data.reading import Reading
    from fedssh.models.losses import Losses
    from fedssh.rules.canaries import Audited
    from fedssh.rules.membership import Attacked, Known
    from fedssh.rules.plan import Plan

SPLITS = ("train", "val", "test")
LOSS, LIRA = "loss", "lira"
SHOWN = {LOSS: "loss (Yeom et al. 2018)", LIRA: "LiRA (Carlini et al. 2022), {} shadow models"}
UNLIKELY = 0.001  # that classes are divided so by chance


@dataclass(frozen=True)
class Asked:
    """What somebody who audits asks for.

    Attributes:
        shadows: How many shadow models are trained; 0 leaves that attack out.
        shadow_epochs: How long each; None is as a session of the plan.
        seed: Of all that is random in it.
        max_auc: Above it the command ends with 1; None never does.
        as_json: For programs.
    """

    shadows: int = 0
    shadow_epochs: int | None = None
    seed: int = 1
    max_auc: float | None = None
    as_json: bool = False


def audit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `alice audit` and `charity audit` share."""
    options = [
        click.option(
            "--non-members", metavar="PATH[:SPLIT]", help="Images like them that nobody trained on."
        ),
        click.option(
            "--shadows", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
            help="Attack with N shadow models, too; even, 4 or more.",
        ),
        click.option(
            "--shadow-epochs", type=click.IntRange(min=1), metavar="N", help="How long each is trained.  [as the plan]"
        ),
        click.option("--max-auc", type=click.FloatRange(0.5, 1), metavar="AUC", help="End with 1 where one is above."),
        click.option("--json", "as_json", is_flag=True, help="For programs."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@dataclass
class Sides:
    """The images of an audit.

    Attributes:
        members, non_members: What the model was trained on, and what it was not.
        where: For people, what both are.
        remarks: What there is to say of them.
    """

    members: Images
    non_members: Images
    where: tuple[str, str]
    remarks: list[str] = field(default_factory=list)


def place(text: str) -> tuple[Path, str | None]:
    """PATH or PATH:SPLIT.

    Raises:
        SettingsError: There is nothing.
    """
    head, _, tail = text.rpartition(":")
    path, split = (Path(head), tail) if head and tail in SPLITS else (Path(text), None)
    if not path.exists():
        raise SettingsError(f"{path} does not exist", "PATH or PATH:SPLIT, with train, val or test")
    return path, split


def images_at(
    text: str, option: str, order: Sequence[str], spec: Mapping[str, Any], reading: Reading
) -> tuple[Images, str]:
    """The images that an option names, as a network takes them, and what they are for people.

    Args:
        order: The splits of which the first is taken that is there, where the option names none.

    Raises:
        SettingsError: There are none, or they are not such as the network takes.
    """
    from fedssh.models import tasks
    from fedssh.models.data import images

    path, split = place(text)
    try:
        there = images.splits(path, reading)
        chosen = split or next((one for one in order if one in there), None)
        if chosen is None or chosen not in there:
            raise ValueError(f"{path} has no {chosen or ' and no '.join(order)} split")
        found = images.load(path, spec["input"], tasks.number_of(spec), chosen, reading)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{option}: {error}", getattr(error, "hint", None)) from None
    return found, f"{chosen} of {path}"


def told_apart(members: Images, non_members: Images, where: tuple[str, str], spec: Mapping[str, Any]) -> Sides:
    """Both sides, with what is among the members left out of the others, and what makes them unlike.

    Raises:
        SettingsError: Nothing is left on a side.
    """
    import numpy as np

    known = set(_prints(members.images))
    new = np.array([one not in known for one in _prints(non_members.images)], bool)
    if not len(members) or not new.any():
        what = "there are no members" if not len(members) else f"all {len(new):,} non-members are among the members"
        raise SettingsError(what if len(new) else "there are no non-members", "an audit needs images of both kinds")
    sides = Sides(members, non_members.take(np.flatnonzero(new)), where)
    if left_out := int((~new).sum()):
        sides.remarks.append(
            f"{left_out:,} of the non-members {'is' if left_out == 1 else 'are'} among the members and left out"
        )
    if (chance := _likely(sides, spec)) < UNLIKELY:
        sides.remarks.append(
            f"members and non-members differ in their classes (by chance in {chance:.1g} of all cases): part of what "
            "is found may be of that, and not of who was trained on"
        )
    return sides


def audit(spec: dict[str, Any], plan: Plan, model: Path, sides: Sides, asked: Asked) -> dict[str, Attacked]:
    """Attack a model; each attack by name.

    Args:
        model: A model file of this spec.

    Raises:
        SettingsError: The shadow models cannot be had.
        AgentError: The model's losses are not finite.
        WeightsError: The file is not of this spec.
    """
    from fedssh.models.training import resident
    from fedssh.rules.membership import by_loss

    each = losses(spec, model)
    try:
        found = [each.of(resident(part, spec)) for part in (sides.members, sides.non_members)]
    except ValueError as error:
        raise AgentError(f"the model cannot be audited: {error}") from None
    attacks = {LOSS: by_loss(*found)}
    if asked.shadows:
        attacks[LIRA] = _with_shadows(spec, plan, sides, found, asked)
    return attacks


def losses(spec: dict[str, Any], model: Path) -> Losses:
    """The losses with a model file's weights.

    Raises:
        WeightsError: The file is not of this spec.
    """
    from fedssh.models import build, get_weights, set_weights
    from fedssh.models.backend import load_keras
    from fedssh.models.losses import Losses
    from fedssh.weights import read_weights

    load_keras()
    network = build(spec)
    shapes = {name: tuple(array.shape) for name, array in get_weights(network).items()}
    set_weights(network, read_weights(model, shapes))
    return Losses(network, spec)


def _with_shadows(spec: dict[str, Any], plan: Plan, sides: Sides, found: Sequence[Any], asked: Asked) -> Attacked:
    import numpy as np

    from fedssh.models.data.images import Images
    from fedssh.models.data.pixel_file import PixelFile
    from fedssh.models.recipe import Recipe
    from fedssh.models.shadows import shadow_losses
    from fedssh.models.training import Trainer, resident
    from fedssh.rules.membership import attacked, confidence, halves, lira

    parts = (sides.members, sides.non_members)
    if any(isinstance(part.images, PixelFile) for part in parts):
        raise SettingsError("--shadows needs all images in memory", "--memory 1, or fewer images")
    pool = Images(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")))
    recipe = Recipe(**{one.name: getattr(plan, one.name) for one in fields(Recipe)} | {"unlabelled": "none"})
    try:
        inside = halves(asked.shadows, len(pool), asked.seed)
        trainer = Trainer(
            spec, plan.optimizer, plan.learning_rate, plan.momentum, plan.proximal,
            None if plan.loss == "auto" else plan.loss, recipe,
        )  # fmt: skip
        seen = shadow_losses(
            trainer, resident(pool, spec), inside, asked.shadow_epochs or plan.epochs, plan.batch_size, asked.seed,
            lambda done: click.echo(f"shadow model {done} of {asked.shadows} is trained", err=True),
        )  # fmt: skip
    except ValueError as error:
        raise SettingsError(f"--shadows: {error}") from None
    scores = lira(confidence(seen), inside, confidence(np.concatenate(found)))
    return attacked(scores[: len(sides.members)], scores[len(sides.members) :], 0.0)


def show(
    said: Mapping[str, Any], attacks: Mapping[str, Attacked], sides: Sides, unit: str, asked: Asked,
    canaries: Audited | None = None,
) -> None:  # fmt: skip
    """Print what was found, and end with 1 where it is above a limit.

    Args:
        said: Which model it is.
        canaries: What these say, where a site has some; no limit is about them.

    Raises:
        AgentError: An AUC is above the limit.
    """
    from fedssh.rules.membership import rests_on

    rests = rests_on(len(sides.members), len(sides.non_members), unit)
    if asked.as_json:
        print_json({
            **said,
            "members": {"from": sides.where[0], "examples": len(sides.members)},
            "non_members": {"from": sides.where[1], "examples": len(sides.non_members)},
            "shadows": asked.shadows,
            "attacks": {name: found.value() for name, found in attacks.items()},
            **({} if canaries is None else {"canaries": canaries.value()}),
            "rests_on": rests,
            "remarks": sides.remarks,
        })  # fmt: skip
    else:
        for name, value in (*said.items(), ("members", sides.where[0]), ("non-members", sides.where[1])):
            print(f"{name:<12} {value}")
        print()
        rates = [f"TPR AT {100 * rate.fpr:g} % FPR" for rate in next(iter(attacks.values())).rates]
        rows = [
            (SHOWN[name].format(asked.shadows), *_cells(found.auc), *_cells(found.advantage),
             *(f"{rate.tpr.value:.4f}" for rate in found.rates))
            for name, found in attacks.items()
        ]  # fmt: skip
        print_table(("ATTACK", "AUC", "95 %", "ADVANTAGE", "95 %", *rates), rows)
        if canaries is not None:
            print()
            print_table(("CANARIES", "IN", "AUC", "95 %", "GUESSED", "RIGHT", "EPSILON"), [_row(canaries)])
        print(f"\n{rests}")
        for line in sides.remarks:
            print(f"note: {line}")
    above = [name for name, found in attacks.items() if asked.max_auc is not None and found.auc.value > asked.max_auc]
    if above:
        worst = max(attacks[name].auc.value for name in above)
        raise AgentError(f"an attack has an AUC of {worst:.4f}, more than {asked.max_auc:g} (--max-auc)")


def _row(canaries: Audited) -> tuple[str, ...]:
    of = f"at least {canaries.epsilon:.4f} at delta {canaries.delta:g} ({canaries.confidence:.0%})"
    counts = map(str, (canaries.canaries, canaries.inside))
    return *counts, *_cells(canaries.auc), str(canaries.guesses), str(canaries.right), of


def _cells(known: Known) -> tuple[str, str]:
    return f"{known.value:.4f}", f"{known.low:.3f} to {known.high:.3f}"


def _prints(images: Any) -> list[bytes]:
    """What images are known by: a hash of each."""
    import numpy as np

    from fedssh.models.data.pixel_file import PixelFile

    found = []
    for start in range(0, len(images), 64):
        at = np.arange(start, min(start + 64, len(images)))
        some = images.read(at) if isinstance(images, PixelFile) else images[at]
        found += [hashlib.blake2b(np.ascontiguousarray(one).tobytes(), digest_size=16).digest() for one in some]
    return found


def _likely(sides: Sides, spec: Mapping[str, Any]) -> float:
    """How often classes are divided as unlike by chance, by the chi-squared test; 1 where images are of no classes."""
    import numpy as np
    from scipy.stats import chi2_contingency

    from fedssh.models import tasks

    if tasks.task_of(spec) != tasks.CLASSES:
        return 1.0
    counts = np.array([
        np.bincount(part.labels, minlength=spec["classes"]) for part in (sides.members, sides.non_members)
    ])  # fmt: skip
    counts = counts[:, counts.sum(axis=0) > 0]
    return float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0

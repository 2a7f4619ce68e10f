"""A site's audit of a model: with the images that it trains on, and those that it holds out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from fedssh.alice import account, canaries, own_data
from fedssh.alice.canaries import Parted
from fedssh.alice.incoming import read_offer
from fedssh.alice.learner import Network
from fedssh.alice.newest import average_told, newest_release
from fedssh.alice.news import not_agreed
from fedssh.alice.terms import Terms, kept, load_pin
from fedssh.commands import tell
from fedssh.errors import SettingsError, UnreachableError
from fedssh.models.data.classes import NamesError
from fedssh.models.data.images import Images
from fedssh.models.training import resident
from fedssh.rules.canaries import Audited, audited
from fedssh.rules.metrics import task_of
from fedssh.rules.plan import read_plan
from fedssh.rules.privacy import epsilon
from fedssh.use.audit import Asked, audit, images_at, losses, show, told_apart
from fedssh.weights import read_header

if TYPE_CHECKING:
    from fedssh.alice.cli import AuditSettings

DELTA = 1e-5  # at which canaries are asked where no privacy is agreed


def run(settings: AuditSettings, model: Path | None, non_members: str | None, asked: Asked) -> None:
    """Attack a model and print what was found.

    Args:
        model: A model file; None is the newest release.
        non_members: PATH or PATH:SPLIT; None are the images that are held out.

    Raises:
        SettingsError: Nothing is agreed to, the images cannot be used, or none are held out.
        UnreachableError: There is no release yet.
        UntrustedError: The release is not what was agreed.
        AgentError: An attack is above the limit.
    """
    terms = _agreed(settings.exchange, settings.state)
    spec = terms.spec
    with _attacked(settings, terms, model) as (said, file), _own_folder(settings.state) as own:
        inside, outside, where, parted = _images(settings, terms, non_members, own)
        sides = told_apart(inside, outside, where, spec)
        plan = read_plan(terms.record.fields["plan"])
        found = audit(spec, plan, file, sides, asked)
        told = None
        if parted is not None:
            if gone := len(parted.drawn) - len(parted.known):
                sides.remarks.append(f"{gone} of {len(parted.drawn)} canaries are not among these images, and left out")
            told = of_canaries(spec, file, parted, plan.privacy.delta if plan.privacy is not None else DELTA)
            if remark := _against_account(told, settings.state):
                sides.remarks.append(remark)
        show(said, found, sides, "rows" if terms.table is not None else "images", asked, told)


def of_canaries(spec: dict[str, Any], model: Path, parted: Parted, delta: float) -> Audited:
    """What a model tells of this site's canaries, by how much less they cost it than they did before.

    Raises:
        SettingsError: Too few are left in the data.
        AgentError: The model's losses are not finite.
    """
    now = losses(spec, model).of(resident(parted.aside, spec))
    before = np.array([one.loss or 0.0 for one in parted.known])
    try:
        return audited(before - now, np.array([one.inside for one in parted.known], bool), delta)
    except ValueError as error:
        raise SettingsError(str(error), "the others are not in the data any more") from None


def _against_account(found: Audited, state: Path) -> str | None:
    """How what canaries say stands to this site's account of privacy; None where there is none."""
    charged = account.load(state)
    if not charged:
        return None
    spent = epsilon([one.charge for one in charged], found.delta)
    if found.epsilon <= spent:
        return f"that is within this site's account, epsilon {spent:.4f} at delta {found.delta:g}"
    return f"by its account this site has spent epsilon {spent:.4f}: one of both is wrong, so train no more and say so"


@contextlib.contextmanager
def _own_folder(state: Path) -> Iterator[Path]:
    """Where images stand that would take too much memory, gone afterwards: `alice train` may be at work on its own."""
    with tempfile.TemporaryDirectory(prefix="audit-", dir=state) as own:
        yield Path(own)


def _agreed(exchange: Path, state: Path) -> Terms:
    pin = load_pin(state)
    if pin is None:
        raise not_agreed(state)
    terms = kept(pin, read_offer(exchange / "incoming"))
    if terms is None:
        raise UnreachableError("bob has not brought the federation's first record yet", "see `bob status`")
    return terms


@contextlib.contextmanager
def _attacked(settings: AuditSettings, terms: Terms, model: Path | None) -> Iterator[tuple[dict[str, Any], Path]]:
    """Which model it is, and its file."""
    if model is None:
        with newest_release(settings.exchange, settings.state) as (origin, file):
            for line in average_told(origin):
                click.echo(line, err=True)
            yield origin.short(), file
        return
    if (found := read_header(model).spec) != terms.spec:
        raise SettingsError(f"{model} is a model of {found}", f"the federation trains {terms.spec}")
    with model.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    yield {"federation": terms.name, "model": digest}, model


def _images(
    settings: AuditSettings, terms: Terms, non_members: str | None, own: Path
) -> tuple[Images, Images, tuple[str, str], Parted | None]:
    """The images that are trained on, others, what both are, and canaries, which are in neither."""
    logger = logging.getLogger("alice")

    def say(line: str) -> None:
        tell(logger, "data", line)

    reading = own_data.said(settings.classes, settings.max_value, settings.patient, settings.columns)
    store = own_data.store_in(own, settings.memory, say)
    network = Network(
        settings.data, settings.seed, settings.threads, None, settings.validation, reading.given, settings.max_value,
        say, terms.class_names, reading.patient, reading.columns, store,
    )  # fmt: skip
    network.table = terms.table
    try:
        train, val = network.load(terms.spec)
    except NamesError as error:
        raise SettingsError(str(error), error.hint) from None
    except (OSError, ValueError) as error:
        raise SettingsError(str(error), "--data is what `alice train` is given") from None
    drawn, parted = canaries.agreed(settings.state), None
    if drawn is not None:
        parted = drawn.among(train, terms.spec["classes"])
        train = train.take(parted.rest)
    inside = f"what is trained on of {settings.data}"
    if non_members is not None:
        held = dataclasses.replace(reading, names=terms.class_names, table=terms.table, task=task_of(terms.spec))
        others, of_others = images_at(non_members, "--non-members", ("val", "test", "train"), terms.spec, held)
        return train, others, (inside, of_others), parted
    if val is None:
        raise SettingsError(
            f"nothing of {settings.data} is held out, so there are no non-members",
            "--validation as `alice train` has it, or --non-members PATH",
        )
    return train, val, (inside, f"what is held out of {settings.data}"), parted

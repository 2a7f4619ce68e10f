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

from fedssh.alice import own_data
from fedssh.alice.incoming import read_offer
from fedssh.alice.learner import Network
from fedssh.alice.newest import average_told, newest_release
from fedssh.alice.news import not_agreed
from fedssh.alice.terms import Terms, kept, load_pin
from fedssh.commands import tell
from fedssh.errors import SettingsError, UnreachableError
from fedssh.models.data.classes import NamesError
from fedssh.models.data.images import Images
from fedssh.rules.metrics import task_of
from fedssh.rules.plan import read_plan
from fedssh.use.audit import Asked, audit, images_at, show, told_apart
from fedssh.weights import read_header

if TYPE_CHECKING:
    from fedssh.alice.cli import AuditSettings


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
        inside, outside, where = _images(settings, terms, non_members, own)
        sides = told_apart(inside, outside, where, spec)
        found = audit(spec, read_plan(terms.record.fields["plan"]), file, sides, asked)
        show(said, found, sides, "rows" if terms.table is not None else "images", asked)


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
) -> tuple[Images, Images, tuple[str, str]]:
    """The images that are trained on, others, and what both are."""
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
    inside = f"what is trained on of {settings.data}"
    if non_members is not None:
        held = dataclasses.replace(reading, names=terms.class_names, table=terms.table, task=task_of(terms.spec))
        others, of_others = images_at(non_members, "--non-members", ("val", "test", "train"), terms.spec, held)
        return train, others, (inside, of_others)
    if val is None:
        raise SettingsError(
            f"nothing of {settings.data} is held out, so there are no non-members",
            "--validation as `alice train` has it, or --non-members PATH",
        )
    return train, val, (inside, f"what is held out of {settings.data}")

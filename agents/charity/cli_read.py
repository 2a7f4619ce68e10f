"""The half of the command `charity` that reads: the history and its views, checks, scores, exports.

Every command is added to the group in cli.py. Nothing here imports what a command does not need.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedssh.commands import path_argument, settings_options
from fedssh.errors import AgentError, LedgerError, SettingsError
from fedssh.files import locked
from fedssh.history.table import few
from fedssh.history.verbs import VERBS
from fedssh.settings import setting
from fedssh.use import audit as auditing
from fedssh.use import command
from fedssh.use.trackers import FORMS, Place, read_place

if TYPE_CHECKING:
    from fedssh.charity.assess import Assessed
    from fedssh.charity.folders import Folders
    from fedssh.ledger import Ledger
    from fedssh.rules.events import Record
    from fedssh.use.card import Origin

STATE = Path("coordinator")


@dataclass(frozen=True)
class StateSettings:
    """What every command needs."""

    state: Path = setting(STATE, "The coordinator's folder.", metavar="DIR")


def example(*lines: str) -> str:
    """The end of a command's help: command lines that `click` is not to wrap."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


class RecordNumber(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """The number of a record, the name of its model, or `best` for the one that made the current model current."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """What can be one; anything else ends the command with code 2."""
        from fedssh.rules.orders import is_tag

        number = value.isascii() and value.isdecimal() and len(value) <= 15 and int(value) >= 1
        if not (number or value == "best" or is_tag(value)):
            self.fail(f"{value!r} is neither the number of a record, nor the name of a model, nor best", param, ctx)
        return str(value)


class Hash(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """The hash of a record."""

    name = "HASH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """64 lower-case hexadecimal digits; anything else ends the command with code 2."""
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            self.fail(f"{value[:80]!r} is not a hash: 64 digits of 0-9 and a-f", param, ctx)
        return str(value)


json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command(epilog=example("charity report > report.html", "charity report --out report.html"))
@click.option("--out", type=path_argument(False), metavar="FILE", help="Write the page there, whole or not at all.")
@settings_options(StateSettings, "charity")
def report(settings: StateSettings, out: Path | None) -> None:
    """Make one page of the history for a browser: charts, tables, every record, and a check of itself.

    It opens from a disk; nothing is loaded into it, and nothing leaves it.
    """
    from fedssh.files import whole_file
    from fedssh.history.report import page

    pieces = page(Recorded(ledger_of(folders_of(settings.state))).lines())
    if out is not None:
        with whole_file(out, 0o644) as file:
            file.writelines(pieces)
        return
    if sys.stdout.isatty():
        raise SettingsError("a page is not for a terminal", "charity report > report.html")
    sys.stdout.buffer.writelines(pieces)
    sys.stdout.buffer.flush()


def _several(context: click.Context, argument: click.Parameter, value: Any) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,)


def viewed(verb: str) -> click.Command:
    """The command of a verb that shows here what it shows at the door, and no more."""
    _, places, _, told = VERBS[verb]
    [(asked_as, means)] = told.items()

    @click.command(verb, help=f"Show {means}.", epilog=example(f"charity {verb}" + " 17" * places))
    @json_option
    @settings_options(StateSettings, "charity")
    def command(settings: StateSettings, as_json: bool, numbers: tuple[str, ...] = ()) -> None:
        from fedssh.history.views import VIEWS, Asked

        state = settings.state
        recorded = Recorded(ledger_of(folders_of(state)))
        known = [number_of(state, number) for number in numbers]
        asked = Asked(recorded, known, lambda: totals_of(state), lambda: arrived(folders_of(state)), time.time())
        show_value(verb, VIEWS[verb](asked), as_json)

    if places:
        words = asked_as.removeprefix(f"{verb} ")
        argument = click.Argument(["numbers"], type=RecordNumber(), nargs=places, metavar=words, callback=_several)
        command.params.insert(0, argument)
    return command


@click.command(epilog=example("charity tags", "charity tags --history"))
@click.option("--history", is_flag=True, help="Every record that gave a name or took it away, too.")
@json_option
@settings_options(StateSettings, "charity")
def tags(settings: StateSettings, history: bool, as_json: bool) -> None:
    """Show what models are called, since when, by whom and why."""
    from fedssh.history import names

    recorded = Recorded(ledger_of(folders_of(settings.state)))
    every = recorded.rows() if history else None
    show_value("tags", names.tags(totals_of(settings.state), recorded.row, every), as_json)


@click.command(epilog=example("charity diff 1 17", "charity diff champion best"))
@click.argument("a", type=RecordNumber())
@click.argument("b", type=RecordNumber())
@json_option
@settings_options(StateSettings, "charity")
def diff(settings: StateSettings, a: str, b: str, as_json: bool) -> None:
    """Show what changed from record A to record B: scores, fields, and how far each tensor moved."""
    from fedssh.charity.judge.distance import distances
    from fedssh.history import views
    from fedssh.history.table import table

    folders = folders_of(settings.state)
    ledger = ledger_of(folders)
    recorded = Recorded(ledger)
    numbers = [number_of(settings.state, one) for one in (a, b)]
    change = views.diff(*map(recorded.row, numbers))
    models = [_stored(folders, ledger.record(number)) for number in numbers]
    tensors = distances(*models) if all(models) else []  # type: ignore[arg-type]
    if as_json:
        show_value("diff", change | {"tensors": tensors}, True)
        return
    show_value("diff", change, False)
    if tensors:
        rows = [
            (row["tensor"], "×".join(map(str, row["shape"])), f"{row['distance']:.4f}",
             "–" if row["relative"] is None else f"{row['relative']:.2%}")
            for row in tensors
        ]  # fmt: skip
        click.echo("\n" + table(("TENSOR", "SHAPE", "MOVED BY (L2)", "OF ITS NORM"), rows, right=(2, 3)), nl=False)


@click.command(epilog=example("charity best", "charity best champion"))
@click.argument("n", type=RecordNumber(), default="best")
@json_option
@settings_options(StateSettings, "charity")
def best(settings: StateSettings, n: str, as_json: bool) -> None:
    """Show the current model, or that of record N or of a name: where it comes from and what it scores."""
    from fedssh.history import text as texts
    from fedssh.history import views
    from fedssh.history.published import NoRecord

    recorded, totals = Recorded(ledger_of(folders_of(settings.state))), totals_of(settings.state)
    number = number_of(settings.state, n)
    try:
        value = views.best(totals, recorded.row, recorded, number)
    except NoRecord as error:
        raise SettingsError(str(error)) from None
    if as_json:
        show_value("best", value, True)
        return
    text = texts.best_text(value)
    width = text.index(value["model"]["sha256"])  # the model's hash stands on the first line
    click.echo(f"{text}{'stored at':<{width}}{folders_of(settings.state).model(value['model']['sha256'])}")
    click.echo(texts.best_figures(value), nl=False)


@click.command(
    epilog=example("charity verify --head 6485ff4d9a3c…", "charity verify ledger.jsonl --signers allowed_signers")
)
@click.argument("export", metavar="[FILE]", required=False, type=path_argument())
@click.option(
    "--signers",
    type=path_argument(),
    help="With FILE: who signs.  [default: allowed_signers in the coordinator's folder]",
)
@click.option("--head", type=Hash(), help="The hash of a record, noted earlier, that must be in the history.")
@json_option
@settings_options(StateSettings, "charity")
def verify(settings: StateSettings, export: Path | None, signers: Path | None, head: str | None, as_json: bool) -> None:
    """Recompute the whole chain, every signature, decision and stored model file; or check an exported history in FILE.

    `fedssh verify FILE` does the latter anywhere; scripts/verify with stock tools, and without the decisions.
    """
    folders = folders_of(settings.state)
    if export is not None:
        from fedssh.verify import check_export

        show_value("verify", check_export(export, signers or folders.outbox / "allowed_signers", head), as_json)
        return
    if signers is not None:
        raise SettingsError("--signers belongs to an exported FILE", "the coordinator's own key is in her folder")
    from fedssh.charity.verify import audit

    value = audit(folders, head)
    show_value("verify", value, as_json)
    if not as_json:
        click.echo(f"stored models: {value['models']}, and every file has the hash that its record names")


@click.command(epilog=example("charity score --split test", "charity score champion --split test --record"))
@click.argument("n", type=RecordNumber(), default="best")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True, help="Which images."
)
@click.option("--data", type=path_argument(), help="Other images than those given to init.")
@click.option("--classes", metavar="NAMES", help="What their classes are called here: OLD=NEW,…")
@click.option("--record", "recorded", is_flag=True, help="Write what her test split says into the history.")
@json_option
@settings_options(StateSettings, "charity")
def score(
    settings: StateSettings, n: str, split: str, data: Path | None, classes: str | None, recorded: bool, as_json: bool
) -> None:
    """Score the current model, or that of record N or of a name, on images that nobody selected on.

    A test split wears out: who scores many models on it and keeps the best has selected on it. So --record writes each
    use into the history, where every site reads it, and `charity best` says how often there was one.
    """
    if recorded and (split != "test" or data is not None):
        raise SettingsError("--record is for her own test split", "leave out --data, and give --split test")
    record = _chosen(settings, n)
    examples, found = _assess(settings, record, _model(folders_of(settings.state), record), split, data, classes)
    told = {}
    if recorded:
        from fedssh.charity.operate import tell_tested
        from fedssh.charity.vault import Vault

        said = tell_tested(Vault(folders_of(settings.state)), record.sequence, examples, found.recorded, found.curve)
        told = {"recorded": said.sequence}
    if as_json:
        shown = {"sequence": record.sequence, "split": split, "examples": examples, "metrics": found.metrics}
        show_value("show", shown | found.value | told, True)
    else:
        about = {"record": record.sequence, "split": split, "images": examples}
        show_value("show", about | told | found.metrics, False)
        click.echo(found.text, nl=False)


def _assess(
    settings: StateSettings, record: Record, model: Path, split: str, data: Path | None, classes: str | None
) -> tuple[int, Assessed]:
    """Score a record's model on a split, in a judge of its own; on how many images, and what was found."""
    from fedssh.charity import assess
    from fedssh.charity.judge.client import Judge, judge_command
    from fedssh.charity.judge.own_images import reading_of

    folders = folders_of(settings.state)
    genesis, private = ledger_of(folders).record(1).fields, private_settings(folders)
    use_networks(private.get("networks"))
    private = {**private, **({"classes": classes} if classes else {})}
    where = data or Path(private["data"])
    judge = Judge(judge_command(where, genesis["spec"], split, reading_of(genesis, private, data)))
    try:
        examples = judge.start()["holdout"]["examples"]
        metrics = record.fields.get("metrics") or {}
        return examples, assess.assess(judge, model, split, genesis, metrics, hers=data is None)
    finally:
        judge.stop()


@click.command(
    epilog=example(
        "charity export best best.keras --test", "charity export champion champion.onnx",
        "charity export --to mlflow:sqlite:///runs.db", "charity export champion --to hub:champion",
    )
)  # fmt: skip
@click.argument("n", type=RecordNumber(), required=False)
@click.argument("file", type=path_argument(exists=False), required=False)
@click.option("--to", "to", metavar=FORMS, help="The whole history to a tracker, or a model as a folder for a hub.")
@click.option(
    "--max-value", type=click.IntRange(1, 65535), default=255, show_default=True, help="White in the pixels it takes."
)
@click.option("--test", is_flag=True, help="Score it on her split test first, for the card.")
@settings_options(StateSettings, "charity")
def export(
    settings: StateSettings, n: str | None, file: Path | None, to: str | None, max_value: int, test: bool
) -> None:
    """Write the model of record N as FILE.keras, FILE.onnx or a TensorFlow FOLDER.savedmodel, for your own use.

    It takes raw pixels, and carries class names, threshold, the record's hash and a model card. ONNX needs the extra
    onnx. With --test the card says how it does on her split test, and whether the holdout spoke for it.

    With --to there is no FILE. tensorboard:DIR and mlflow:URI get the whole history, a run for each site and one for
    the coordinator, with the record's number as the step; asked again, what came since (the extra trackers). hub:DIR
    gets a model's card, .keras and .safetensors, the signed history and scripts/verify. Nothing goes anywhere else.
    """
    place = read_place(to) if to is not None else None
    if file is not None and place is not None:
        raise SettingsError("--to says where to, so there is no FILE", f"leave out {file}")
    if place is not None and place.kind != "hub":
        if n is not None or test:
            raise SettingsError(f"--to {place.kind}:… takes the whole history", "leave out N and --test")
        _track(settings, place)
        return
    if place is None and (n is None or file is None):
        raise SettingsError(f"{'N and FILE are' if n is None else 'FILE is'} missing", "or say --to")
    origin, model = _origin(settings, n or "best")
    if test:
        record = _chosen(settings, n or "best")
        _, found = _assess(settings, record, model, "test", None, None)
        origin = dataclasses.replace(origin, tested=found.value)
    if file is not None:
        command.export(origin, model, file, max_value)
        return
    assert place is not None
    from fedssh.use import hub

    lines = Recorded(ledger_of(folders_of(settings.state))).lines()
    for line in hub.told(hub.export(origin, model, lines, Path(place.place), max_value), Path(place.place)):
        click.echo(line)


def _track(settings: StateSettings, place: Place) -> None:
    """Bring the whole history to a tracker."""
    from fedssh.history import views
    from fedssh.use.tracked import Told

    folders = folders_of(settings.state)
    ledger = ledger_of(folders)
    with _alone(folders):
        recorded = Recorded(ledger)
        count = recorded.count
        totals = views.total(recorded)
        newest = recorded.row(count)
        with command.Progress(count, "records") as progress:
            told = Told(
                recorded.row(1), count, newest["hash"], totals, recorded.row,
                lambda after: recorded.rows(after, count), progress,
            )  # fmt: skip
            if place.kind == "mlflow":
                from fedssh.use import to_mlflow

                runs = to_mlflow.export(told, place.place)
            else:
                from fedssh.use import to_tensorboard

                runs = to_tensorboard.export(told, Path(place.place))
    written = f"{few(runs)} up to record {count}" if runs else f"nothing new, record {count} was the last before"
    click.echo(f"{place}: {written}")


@contextlib.contextmanager
def _alone(folders: Folders) -> Iterator[None]:
    """Wait until nobody else brings this history anywhere: two at once would write the same twice."""
    lock = folders.exporting
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, "busy"))
        except SettingsError:
            who = lock.read_text().strip() or "unknown"
            click.echo(f"charity: waits for another export, of process {who}, to end", err=True)
            held.enter_context(locked(lock))
        lock.write_text(f"{os.getpid()}\n")
        yield


@click.command(epilog=command.EXAMPLE.format("charity"))
@command.predict_options
@click.option("--record", "n", type=RecordNumber(), default="best", show_default=True, help="Of this record's model.")
@settings_options(StateSettings, "charity")
def predict(settings: StateSettings, n: str, data: Path, **options: Any) -> None:
    """Say what the current model, or that of a record, makes of images: a row for each, as CSV.

    Exit code 1: some images could not be read; their rows say why.
    """
    origin, model = _origin(settings, n)
    command.predict(origin, model, data, **options)


@click.command(
    epilog=example("charity audit", "charity audit 17 --members a.npz:train --non-members a.npz:val --shadows 16")
)
@click.argument("n", type=RecordNumber(), default="best")
@click.option("--members", metavar="PATH[:SPLIT]", help="Images that were trained on.  [her train split]")
@click.option(
    "--split", type=click.Choice(["val", "test"]), default="val", show_default=True,
    help="Which of her images are non-members.",
)  # fmt: skip
@auditing.audit_options
@click.option("--classes", metavar="NAMES", help="What their classes are called here: OLD=NEW,…")
@click.option("--seed", type=click.IntRange(min=0), default=1, metavar="N", help="Of the shadow models.  [default: 1]")
@settings_options(StateSettings, "charity")
def audit(
    settings: StateSettings, n: str, members: str | None, split: str, non_members: str | None, classes: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Attack the current model, or that of record N: can one tell from it who was trained on?

    Members that the coordinator has are those that the first model was trained on; a site's own are at the site
    (`alice audit`). At least what is found leaks; nothing found is no proof.
    """
    from fedssh.charity import audit as own

    folders = folders_of(settings.state)
    private = private_settings(folders)
    origin, model = _origin(settings, n)
    private = {**private, **({"classes": classes} if classes else {})}
    own.run(origin, model, private, members, non_members, split, auditing.Asked(**options))


def _origin(settings: StateSettings, n: str) -> tuple[Origin, Path]:
    """Where a record's model comes from, and its file."""
    from fedssh.history import names
    from fedssh.use.card import Origin

    folders = folders_of(settings.state)
    use_networks(private_settings(folders).get("networks"))
    first, record = ledger_of(folders).record(1), _chosen(settings, n)
    model = _model(folders, record)
    totals = totals_of(settings.state)
    standing, look_up = totals["nodes"].values(), Recorded(ledger_of(folders)).row
    return Origin(
        genesis=first.fields, genesis_hash=first.hash, record=record.sequence, hash=record.hash,
        model=record.fields["model"]["sha256"], metrics=record.fields.get("metrics") or {},
        sites=tuple(one["site"] for one in standing if one["role"] == "site" and one["state"] == "enrolled"),
        created=record.fields["time"],
        names=names.names_of(totals, record.sequence),
        on_test=names.tested(totals, record.sequence, look_up),
    ), model  # fmt: skip


def folders_of(state: Path) -> Folders:
    """What lies where below `--state`; whether it exists is not looked at."""
    from fedssh.charity.folders import Folders

    return Folders(state)


def ledger_of(folders: Folders) -> Ledger:
    """The history, which has at least its first record.

    Raises:
        LedgerError: There is none, or `charity init` was interrupted before its first record.
    """
    from fedssh.ledger import Ledger

    ledger = Ledger(folders.ledger)
    if ledger.head() is None:
        raise LedgerError("the history is empty", "run `charity init` again; it continues where it stopped")
    return ledger


def use_networks(folder: str | Path | None) -> None:
    """Look for networks in the coordinator's own folder, too, here and in the judge.

    Raises:
        SettingsError: It is no folder, or not any more.
    """
    from fedssh.models import own

    try:
        own.use(Path(folder) if folder else None)
    except ValueError as error:
        raise SettingsError(f"--networks: {error}") from None


def private_settings(folders: Folders) -> dict[str, Any]:
    """What the history does not tell: where the coordinator's data lies, how to read it, and the door's address.

    Raises:
        SettingsError: The file is missing or damaged.
    """
    try:
        value: dict[str, Any] = json.loads(folders.settings.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folders.settings} cannot be read: {error}", "is --state right?") from None
    return value


class Recorded:
    """The history as the ledger has it, for the views."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def count(self) -> int:
        """The number of the newest record."""
        head = self._ledger.head()
        return head.sequence if head else 0

    def row(self, sequence: int) -> dict[str, Any]:
        """One record."""
        from fedssh.charity.vault import row

        return row(self._ledger.record(sequence))

    def rows(self, after: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
        """The records above a number, in order, up to another."""
        from fedssh.charity.vault import row

        return map(row, self.records(after, end))

    def records(self, after: int = 0, end: int | None = None) -> Iterator[Record]:
        """The same as the ledger has them."""
        return self._ledger.iterate(after, end)

    def lines(self, after: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The lines of the export above a number, in order, up to another."""
        return (record.line() for record in self.records(after, end))


def totals_of(state: Path) -> dict[str, Any]:
    """What the views of the whole history need."""
    from fedssh.history import views

    folders = folders_of(state)
    summary = folders.summary.read_bytes() if folders.summary.is_file() else b""
    return views.total(Recorded(ledger_of(folders)), summary)


def arrived(folders: Folders) -> dict[str, int]:
    """How many bundles of each site wait to be judged."""
    from fedssh.charity import intake

    waiting = [one.site for one in (*intake.waiting(folders), *intake.unfinished(folders))]
    return {site: waiting.count(site) for site in dict.fromkeys(waiting)}


def number_of(state: Path, asked: str) -> int:
    """The number of a record that is asked for by it, by the name of its model, or as `best`.

    Raises:
        SettingsError: No model is called so.
    """
    if asked.isdecimal():
        return int(asked)
    from fedssh.history import names
    from fedssh.history.published import NoRecord

    try:
        return names.stands_for(totals_of(state), asked)
    except NoRecord as error:
        raise SettingsError(str(error), "`charity tags` shows the names") from None


def _chosen(settings: StateSettings, asked: str) -> Record:
    """The record that is asked for."""
    return ledger_of(folders_of(settings.state)).record(number_of(settings.state, asked))


def show_value(verb: str, value: Any, as_json: bool) -> None:
    """Print what a view found, as the door prints it for the same verb: text for people, or JSON."""
    from fedssh.history.text import TEXTS, to_json

    click.echo(to_json(value) if as_json else TEXTS[verb](value), nl=False)


def _stored(folders: Folders, record: Record) -> Path | None:
    """The model file that a record names, where it is stored."""
    model = record.fields.get("model")
    path = folders.model(model["sha256"]) if model else None
    return path if path and path.is_file() else None


def _model(folders: Folders, record: Record) -> Path:
    path = _stored(folders, record)
    if path is None:
        raise AgentError(
            f"record {record.sequence} ({record.event}) has no stored model",
            "only the models that became current are kept",
        )
    if record.event == "accepted" and record.fields.get("metrics") is None:
        raise AgentError(
            f"the model of record {record.sequence} has layers that are for sites alone, and none of them here",
            "a site has the whole: `alice predict`, `alice export`; the first model is that of record 1",
        )
    return path


_OWN = (report, diff, best, tags, verify, score, audit, export, predict)
_ELSEWHERE = ("history", "nodes", "help")  # cli_history.py, a group in cli.py, and `--help`
COMMANDS = (*_OWN, *(viewed(verb) for verb in VERBS if verb not in (*_ELSEWHERE, *(one.name for one in _OWN))))

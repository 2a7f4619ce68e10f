"""The command `charity`: run a coordinator, enrol sites, and read the history.

Nothing here imports what a command does not need: `--help` comes at once, and only the judge loads Keras.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agents.charity.door_cli import door
from agents.commands import entry, new_group, path_argument, settings_options, stop_event
from agents.errors import AgentError, LedgerError, SettingsError
from agents.settings import REQUIRED, describe, setting

if TYPE_CHECKING:
    from agents.charity.folders import Folders
    from agents.ledger import Ledger, Record

STATE = Path("coordinator")


@dataclass(frozen=True)
class StateSettings:
    """What every command needs."""

    state: Path = setting(STATE, "The coordinator's folder.", metavar="DIR")


@dataclass(frozen=True)
class InitSettings:
    """What a federation agrees on when it begins."""

    data: Path = setting(REQUIRED, "Her images: train for genesis, val as holdout.", metavar="FILE|DIR")
    state: Path = setting(STATE, "The coordinator's folder.", metavar="DIR")
    architecture: str = setting("cnn", "A registered name, a spec as JSON, or @FILE.", metavar="SPEC")
    name: str = setting("fedssh", "The federation's name.")
    schedule: str = setting("free", "All sites at once, or one at a time.", choices=("free", "relay"))
    sessions: int | None = setting(None, "Sessions per site; without it, no end.", metavar="N", at_least=1)
    policy: str = setting("best", "Which of two models she keeps.", choices=("best",))
    metric: str = setting(
        "accuracy", "What the policy compares first.", choices=("accuracy", "auc", "precision", "recall")
    )
    batch_size: int = setting(64, "Images per training step.", metavar="N", at_least=1)
    epochs: int = setting(100, "Most epochs of a session.", metavar="N", at_least=1)
    patience: int = setting(10, "Epochs without improvement that end a session.", metavar="N", at_least=1)
    optimizer: str = setting("adam", "A Keras optimizer.", metavar="NAME")
    learning_rate: float = setting(0.001, "Its learning rate.", metavar="X", at_least=0)
    seed: int = setting(0, "For random weights and the first epoch.", metavar="N", at_least=0)
    address: str | None = setting(None, "Where sites reach the door; for invitations.", metavar="USER@HOST:PORT")
    if_needed: bool = setting(False, "Do nothing where a federation exists.")


@dataclass(frozen=True)
class ServeSettings(StateSettings):
    """How a coordinator works."""

    data: Path | None = setting(None, "Her images, if they moved since init.", metavar="FILE|DIR")
    door: str = setting("none", "Also run `charity door` as a child.", choices=("none", "embedded", "sshd"))
    listen: str | None = setting(None, "With --door: where it listens.", metavar="HOST:PORT")
    rescan: float = setting(
        5.0, "Seconds between looks at the inbox that need no notice.", metavar="SECONDS", at_least=0.05
    )
    turn_timeout: float = setting(
        900.0, "Schedule relay: seconds of silence that end a turn.", metavar="SECONDS", at_least=1
    )
    judge_start_timeout: float = setting(120.0, "Seconds the judge may take to start.", metavar="SECONDS", at_least=1)
    judge_timeout: float = setting(60.0, "Seconds the judge may take for a score.", metavar="SECONDS", at_least=0.1)


@dataclass(frozen=True)
class NodeSettings(StateSettings):
    """Whom to enrol as what."""

    role: str = setting("site", "A site trains; an auditor reads.", choices=("site", "auditor"))
    address: str | None = setting(None, "Where the site reaches the door.", metavar="USER@HOST:PORT")
    out: Path | None = setting(None, "Write the invitation here, not to standard output.", metavar="FILE")


class Charity(click.Group):
    """Shows the commands in the order of use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


charity = new_group("charity", "Charity, the coordinator: judges what the sites send and keeps the best model.")
charity.__class__ = Charity
charity.epilog = _example(
    "charity init --data xrays.npz --sessions 3",
    "charity nodes add alice-1 alice-1.pub --address charity@charity.example:2222 > alice-1.json",
    "charity serve --door sshd",
)


@charity.command(epilog=_example("charity init --data xrays.npz --architecture cnn --schedule relay --sessions 3"))
@settings_options(InitSettings, "charity")
def init(settings: InitSettings) -> None:
    """Begin a federation: make her keys, and train the first model for one epoch."""
    from agents.charity import enrol, genesis

    folders = _folders(settings.state)
    if settings.if_needed and genesis.is_begun(folders):
        click.echo(f"{settings.state} holds a federation already; nothing to do", err=True)
        return
    if settings.address:
        enrol.parse_address(settings.address)
    if not settings.data.exists():
        raise SettingsError(f"{settings.data} does not exist")
    spec = genesis.read_spec(settings.architecture)
    plan = {
        name: getattr(settings, name)
        for name in ("batch_size", "epochs", "patience", "optimizer", "learning_rate", "metric")
    }
    agreement = {
        "federation": settings.name,
        "spec": spec,
        "plan": plan | {"loss": genesis.loss_of(spec)},
        "policy": settings.policy,
        "schedule": settings.schedule,
        "sessions": settings.sessions,
    }
    record = genesis.begin(folders, settings.data, agreement, settings.seed, {"address": settings.address})
    metrics = record.fields["metrics"]
    click.echo(
        f"genesis of {settings.name}: accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.4f} on the holdout"
    )


@charity.command(
    epilog=_example("charity serve --door sshd", "CHARITY_LOG_FORMAT=json charity serve --turn-timeout 3600")
)
@settings_options(ServeSettings, "charity")
def serve(settings: ServeSettings) -> None:
    """Judge what arrives, until told to stop."""
    from agents.charity import serve as server
    from agents.charity.door_child import DoorChild
    from agents.charity.judge_client import Judge, judge_command

    folders = _folders(settings.state)
    genesis = _ledger(folders).record(1).fields
    data = settings.data or Path(_private(folders)["data"])
    stop = stop_event()
    judge = Judge(
        judge_command(data, genesis["spec"]),
        settings.judge_start_timeout,
        settings.judge_timeout,
        restarted=server.tell_restart,
    )
    with DoorChild(settings.door, settings.state, settings.listen) as child:
        server.serve(
            folders, judge, stop, settings=describe(settings), rescan_seconds=settings.rescan,
            turn_seconds=settings.turn_timeout, check=child.check,
        )  # fmt: skip


charity.add_command(door)


@charity.group(
    epilog=_example("charity nodes add alice-1 alice-1.pub --address charity@charity.example:2222 > alice-1.json")
)
def nodes() -> None:
    """Enrol, list and revoke sites and auditors."""


@nodes.command(
    epilog=_example("charity nodes add alice-1 alice-1.pub --address charity@charity.example:2222 > alice-1.json")
)
@click.argument("name")
@click.argument("keyfile", type=path_argument())
@settings_options(NodeSettings, "charity")
def add(settings: NodeSettings, name: str, keyfile: Path) -> None:
    """Enrol NAME with the public key in KEYFILE, and print its invitation.

    The invitation holds nothing secret: the address, the door's host key, the coordinator's key.
    """
    from agents.charity import enrol
    from agents.charity.vault import Vault
    from agents.files import write_whole

    folders = _folders(settings.state)
    address = settings.address or _private(folders).get("address")
    if address is None:
        raise SettingsError("--address is missing", "give it here, or once with `charity init --address`")
    enrol.parse_address(address)
    enrol.host_key(folders)
    vault = Vault(folders)
    enrol.add(vault, name, keyfile, settings.role)
    text = json.dumps(enrol.invitation(vault, name, address), indent=2) + "\n"
    if settings.out:
        write_whole(settings.out, text.encode(), 0o644)
    else:
        click.echo(text, nl=False)


@nodes.command(epilog=_example("charity nodes invite alice-1 --address charity@charity.example:2222 > alice-1.json"))
@click.argument("name")
@settings_options(NodeSettings, "charity")
def invite(settings: NodeSettings, name: str) -> None:
    """Print the invitation of NAME, who is enrolled, once more."""
    from agents.charity import enrol
    from agents.charity.vault import Vault

    folders = _folders(settings.state)
    address = settings.address or _private(folders).get("address")
    if address is None:
        raise SettingsError("--address is missing", "give it here, or once with `charity init --address`")
    click.echo(json.dumps(enrol.invitation(Vault(folders), name, address), indent=2))


class RecordNumber(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """The number of a record, or `best` for the one that made the current model current."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == "best":
            return 0
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither the number of a record nor best", param, ctx)
        return int(value)


_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


@nodes.command("list", epilog=_example("charity nodes list"))
@_json
@settings_options(StateSettings, "charity")
def list_nodes(settings: StateSettings, as_json: bool) -> None:
    """Show everybody ever enrolled, and what each has sent."""
    from agents.charity import views

    _print("nodes", views.nodes(_rows(settings)), as_json)


@nodes.command(epilog=_example('charity nodes revoke alice-2 --reason "key lost on a laptop"'))
@click.argument("name")
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def revoke(settings: StateSettings, name: str, reason: str) -> None:
    """End NAME's enrolment at once: no login, no pending submission, no further release."""
    from agents.charity import enrol
    from agents.charity.vault import Vault

    record = enrol.revoke(Vault(_folders(settings.state)), name, reason)
    click.echo(f"{name} is revoked, record {record.sequence}")


@charity.command(
    epilog=_example("charity history --last 20", "charity history --export | tail -n 1 | jq -r .record | jq .")
)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N records.")
@click.option("--export", is_flag=True, help="The signed records themselves, one JSON line each.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="With --export: only records above SEQ."
)
@_json
@settings_options(StateSettings, "charity")
def history(settings: StateSettings, last: int | None, export: bool, after: int, as_json: bool) -> None:
    """Show every event: who sent what, what it scored, the verdict and why."""
    from agents.charity import views

    if export:
        for record in _ledger(_folders(settings.state)).records(after=after):
            sys.stdout.buffer.write(record.line())
        sys.stdout.buffer.flush()
        return
    _print("history", views.history(_rows(settings), last), as_json)


@charity.command(epilog=_example("charity show 17"))
@click.argument("n", type=click.IntRange(min=1))
@_json
@settings_options(StateSettings, "charity")
def show(settings: StateSettings, n: int, as_json: bool) -> None:
    """Show everything that record N says."""
    from agents.charity import views

    _print("show", views.show(_rows(settings, n), n), as_json)


@charity.command(epilog=_example("charity diff 1 17"))
@click.argument("a", type=click.IntRange(min=1))
@click.argument("b", type=click.IntRange(min=1))
@_json
@settings_options(StateSettings, "charity")
def diff(settings: StateSettings, a: int, b: int, as_json: bool) -> None:
    """Show what changed from record A to record B: scores, fields, and how far each tensor moved."""
    from agents.charity import views
    from agents.charity.distance import distances

    change = views.diff(_rows(settings, a, b), a, b)
    folders = _folders(settings.state)
    ledger = _ledger(folders)
    models = [_stored(folders, ledger.record(number)) for number in (a, b)]
    tensors = distances(*models) if all(models) else []  # type: ignore[arg-type]
    if as_json:
        _print("diff", change | {"tensors": tensors}, True)
        return
    _print("diff", change, False)
    if tensors:
        rows = [
            (row["tensor"], "×".join(map(str, row["shape"])), f"{row['distance']:.4f}",
             "–" if row["relative"] is None else f"{row['relative']:.2%}")
            for row in tensors
        ]  # fmt: skip
        click.echo(
            "\n" + views.table(("TENSOR", "SHAPE", "MOVED BY (L2)", "OF ITS NORM"), rows, right=(2, 3)), nl=False
        )


@charity.command(epilog=_example("charity best"))
@_json
@settings_options(StateSettings, "charity")
def best(settings: StateSettings, as_json: bool) -> None:
    """Show the current model: where it comes from and what it scores."""
    from agents.charity import views

    value = views.best(_rows(settings))
    if as_json:
        _print("best", value, True)
        return
    text = views.best_text(value)
    width = text.index(value["model"]["sha256"])  # the model's hash stands on the first line
    click.echo(f"{text}{'stored at':<{width}}{_folders(settings.state).model(value['model']['sha256'])}")


@charity.command(epilog=_example("charity status --json"))
@_json
@settings_options(StateSettings, "charity")
def status(settings: StateSettings, as_json: bool) -> None:
    """Show where the federation stands."""
    from agents.charity import intake, views

    folders = _folders(settings.state)
    rows = _rows(settings)
    waiting: dict[str, int] = {}
    for claimed in (*intake.waiting(folders), *intake.unfinished(folders)):
        waiting[claimed.site] = waiting.get(claimed.site, 0) + 1
    _print("status", views.status(rows, waiting), as_json)


@charity.command(epilog=_example("charity verify"))
@_json
@settings_options(StateSettings, "charity")
def verify(settings: StateSettings, as_json: bool) -> None:
    """Recompute the whole chain, every signature, and every stored model file."""
    from agents.charity.audit import audit

    value = audit(_folders(settings.state))
    _print("verify", value, as_json)
    if not as_json:
        click.echo(f"stored models: {value['models']}, and every file has the hash that its record names")


@charity.command(epilog=_example("charity score --split test", "charity score --split test 1"))
@click.argument("n", type=RecordNumber(), default="best")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True, help="Which images."
)
@click.option("--data", type=path_argument(), help="Other images than those given to init.")
@_json
@settings_options(StateSettings, "charity")
def score(settings: StateSettings, n: int, split: str, data: Path | None, as_json: bool) -> None:
    """Score the current model, or that of record N, on images that nobody selected on."""
    from agents.charity.judge_client import Judge, judge_command

    folders = _folders(settings.state)
    ledger = _ledger(folders)
    record = _chosen(settings, n)
    model = _model(folders, record)
    judge = Judge(judge_command(data or Path(_private(folders)["data"]), ledger.record(1).fields["spec"], split))
    try:
        examples = judge.start()["holdout"]["examples"]
        metrics = judge.score(model)
    finally:
        judge.stop()
    if as_json:
        _print("show", {"sequence": record.sequence, "split": split, "examples": examples, "metrics": metrics}, True)
    else:
        _print("show", {"record": record.sequence, "split": split, "images": examples, **metrics}, False)


@charity.command(epilog=_example("charity export best best.keras", "charity export 17 seventeen.keras"))
@click.argument("n", type=RecordNumber())
@click.argument("file", type=path_argument(exists=False))
@settings_options(StateSettings, "charity")
def export(settings: StateSettings, n: int, file: Path) -> None:
    """Write the model of record N as a Keras FILE.keras, for your own use."""
    if file.suffix != ".keras":
        raise SettingsError(f"{file} does not end in .keras")
    from agents.charity.judge import export_keras

    folders = _folders(settings.state)
    genesis = _ledger(folders).record(1).fields
    export_keras(_model(folders, _chosen(settings, n)), genesis["spec"], genesis["plan"], file)
    click.echo(f"wrote {file}")


@charity.command(epilog=_example('charity rollback 17 --reason "18 was trained on mislabelled images"'))
@click.argument("n", type=click.IntRange(min=1))
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def rollback(settings: StateSettings, n: int, reason: str) -> None:
    """Make the model of record N current again, and release it."""
    from agents.charity.steer import roll_back
    from agents.charity.vault import Vault

    record = roll_back(Vault(_folders(settings.state)), n, reason)
    click.echo(f"the model of record {n} is current again, record {record.sequence}")


@charity.command(epilog=_example('charity finish --reason "good enough"'))
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def finish(settings: StateSettings, reason: str) -> None:
    """End the federation: sites stop after the session they are in."""
    from agents.charity.steer import finish as end
    from agents.charity.vault import Vault

    record = end(Vault(_folders(settings.state)), reason)
    click.echo(f"finished, record {record.sequence}")


@charity.command(epilog=_example("charity reopen --sessions 6"))
@click.option(
    "--sessions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Sessions per site, past ones included.  [default: no end]",
)
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def reopen(settings: StateSettings, sessions: int | None, reason: str) -> None:
    """Go on with a finished federation."""
    from agents.charity.steer import reopen as resume
    from agents.charity.vault import Vault

    record = resume(Vault(_folders(settings.state)), sessions, reason)
    click.echo(f"open again, record {record.sequence}")


def _folders(state: Path) -> Folders:
    from agents.charity.folders import Folders

    return Folders(state)


def _ledger(folders: Folders) -> Ledger:
    from agents.ledger import Ledger

    ledger = Ledger(folders.ledger)
    if ledger.head() is None:
        raise LedgerError("the history is empty", "run `charity init` again; it continues where it stopped")
    return ledger


def _private(folders: Folders) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(folders.settings.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{folders.settings} cannot be read: {error}", "is --state right?") from None
    return value


def _rows(settings: StateSettings, *needed: int) -> list[dict[str, Any]]:
    """The history as the views want it."""
    from agents.charity import views

    ledger = _ledger(_folders(settings.state))
    for number in needed:
        ledger.record(number)
    return views.read(record.line() for record in ledger.records())


def _chosen(settings: StateSettings, number: int) -> Record:
    """The record of that number; 0 is the one that made the current model current."""
    from agents.charity import views

    ledger = _ledger(_folders(settings.state))
    return ledger.record(number or views.current(_rows(settings))["sequence"])


def _print(verb: str, value: Any, as_json: bool) -> None:
    from agents.charity import views

    click.echo(views.to_json(value) if as_json else views.TEXTS[verb](value), nl=False)


def _stored(folders: Folders, record: Record) -> Path | None:
    """The model file that a record names, where it is stored."""
    model = record.fields.get("model")
    path = folders.model(model["sha256"]) if model else None
    return path if path and path.is_file() else None


def _model(folders: Folders, record: Record) -> Path:
    path = _stored(folders, record)
    if path is None:
        raise AgentError(
            f"record {record.sequence} ({record.event}) has no stored model", "refused models are not kept"
        )
    return path


def main() -> None:
    """Run `charity`."""
    entry(charity, "charity")


if __name__ == "__main__":
    main()

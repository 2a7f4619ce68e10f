"""The command `charity`: run a coordinator, enrol sites, and read the history.

Nothing here imports what a command does not need: `--help` comes at once, and only the judge and `plan` load Keras.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedssh.charity import cli_history, cli_read
from fedssh.charity.cli_plan import plan
from fedssh.charity.cli_read import (
    STATE,
    RecordNumber,
    StateSettings,
    example,
    folders_of,
    json_option,
    ledger_of,
    number_of,
    private_settings,
    show_value,
    totals_of,
    use_networks,
)
from fedssh.commands import entry, new_group, path_argument, settings_options, stop_event
from fedssh.door.cli import door
from fedssh.errors import SettingsError
from fedssh.rules.metrics import OF_TASK, headline
from fedssh.rules.terms import Terms, agree
from fedssh.rules.vocabulary import ROLES
from fedssh.settings import REQUIRED, describe, setting, settings_file

if TYPE_CHECKING:
    from fedssh.charity.judge.own_images import Taken


@dataclass(frozen=True)
class ImageSettings:
    """How her images are read."""

    size: str | None = setting(None, "The network's images, such as 64x64.  [as hers]", metavar="HxW[xC]")
    classes: str | None = setting(None, "What hers are called: OLD=NEW,…", metavar="NAMES")
    max_value: int | None = setting(None, "White in integer pixels, such as 4095.", metavar="N", at_least=1)
    task: str | None = setting(None, "What her labels are.  [as they look]", choices=tuple(OF_TASK))
    patient: str | None = setting(None, "Finds the patient in a file's path: (person\\d+)_", metavar="REGEX")
    columns: str | None = setting(None, "Of a .csv: file=NAME,label=NAME,split=…,patient=…", metavar="NAMES")
    target: str | None = setting(None, "Of a table of features: the column to predict.", metavar="NAME")
    features: str | None = setting(None, "Its columns to learn from.  [all others]", metavar="NAMES")
    leave_out: str | None = setting(None, "Its columns to pass over, such as id,name.", metavar="NAMES")
    holdout: float | None = setting(None, "Cut this share of train out as holdout.", metavar="SHARE", at_least=0)
    seed: int = setting(0, "For weights, order and --holdout.", metavar="N", at_least=0)


@dataclass(frozen=True)
class ReadSettings(ImageSettings, StateSettings):
    """The same where a federation may exist."""


@dataclass(frozen=True)
class HerSettings:
    """Her folder, her images or table, and the network that is trained on such."""

    data: Path = setting(REQUIRED, "Her images or table: train for genesis, val as holdout.", metavar="FILE|DIR")
    state: Path = setting(STATE, "The coordinator's folder.", metavar="DIR")
    terms: Path | None = settings_file("Any of these, as NAME = VALUE in TOML; flags beat it.")
    architecture: str | None = setting(
        None, "A network's name, a spec as JSON, or @FILE.  [cnn; mlp for a table]", metavar="SPEC"
    )
    frozen: str | None = setting(None, "Layers not to train: all, 'before LAYER', or names.", metavar="LAYERS")
    networks: Path | None = setting(None, "A folder with networks of your own.", metavar="DIR")


@dataclass(frozen=True)
class InitSettings(Terms, ImageSettings, HerSettings):
    """How a federation begins: with her images, the terms that it agrees on, and a first model."""

    weights: Path | None = setting(None, "Begin with these: .safetensors, .npz or Keras' .h5.", metavar="FILE")
    genesis_epochs: int = setting(1, "Epochs on her own images before all others.", metavar="N", at_least=0)
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
    metrics: Path | None = setting(None, "Keep a .prom file for node_exporter's textfile collector.", metavar="FILE")


@dataclass(frozen=True)
class NodeSettings(StateSettings):
    """Whom to enrol as what."""

    role: str = setting("site", "A site trains; an auditor reads.", choices=ROLES)
    address: str | None = setting(None, "Where the site reaches the door.", metavar="USER@HOST:PORT")
    out: Path | None = setting(None, "Write the invitation here, not to standard output.", metavar="FILE")


class Charity(click.Group):
    """Shows the commands in the order of use, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names as they were added."""
        return list(self.commands)


charity = new_group("charity", "Charity, the coordinator: judges what the sites send and keeps the best model.")
charity.__class__ = Charity
charity.epilog = example(
    "charity init --data xrays.npz --sessions 3",
    "charity nodes add alice-1 alice-1.pub --address charity@charity.example:2222 > alice-1.json",
    "charity serve --door sshd",
)


@charity.command(epilog=example("charity init --data xrays.npz --architecture cnn --schedule relay --sessions 3"))
@settings_options(InitSettings, "charity")
def init(settings: InitSettings) -> None:
    """Begin a federation: make her keys and the first model."""
    from fedssh.address import parse_address
    from fedssh.charity import genesis
    from fedssh.charity.judge import own_images

    folders = folders_of(settings.state)
    if settings.if_needed and genesis.is_begun(folders):
        click.echo(f"{settings.state} holds a federation already; nothing to do", err=True)
        return
    if settings.address:
        parse_address(settings.address)
    if not settings.data.exists():
        raise SettingsError(f"{settings.data} does not exist")
    if settings.weights and not settings.weights.is_file():
        raise SettingsError(f"--weights: {settings.weights} is no file")
    use_networks(settings.networks)
    said = own_images.to_record(
        settings.data, settings.patient, settings.columns, settings.holdout, settings.seed, settings.target,
        settings.features, settings.leave_out, settings.task,
    )  # fmt: skip
    reading = own_images.to_reading(said)
    architecture, frozen = settings.architecture, settings.frozen
    taken = own_images.take(settings.data, architecture, settings.size, settings.classes, reading, frozen)
    if taken.table:
        _check_table_settings(settings)
    for line in [*taken.told, *filter(None, [own_images.told_of_cut(settings.data, said)])]:
        click.echo(line)
    _look(settings, taken, said)
    agreement = agree(vars(settings), taken.spec, genesis.loss_of(taken.spec), taken.class_names)
    agreement |= {"table": taken.table} if taken.table else {}
    start = genesis.Start(settings.genesis_epochs, settings.weights, click.echo)
    private = {"address": settings.address, "classes": settings.classes, "max_value": settings.max_value}
    private |= said
    private |= {"networks": str(settings.networks.resolve())} if settings.networks else {}
    record = genesis.begin(folders, settings.data, agreement, settings.seed, private, start=start)
    metrics = record.fields["metrics"]
    name, value = headline(metrics) or ("accuracy", math.nan)
    click.echo(f"genesis of {settings.name}: {name} {value:.4f}, loss {metrics['loss']:.4f} on the holdout")


@charity.command(epilog=example("charity check xrays --holdout 0.2 --patient '(person\\d+)_'"))
@click.argument("data", type=path_argument())
@json_option
@settings_options(ReadSettings, "charity")
def check(settings: ReadSettings, data: Path, as_json: bool) -> None:
    """Look through the coordinator's images: all that is wrong with them, at once.

    Where a federation has begun in --state, they are read and held against what it recorded. Exit code 1: something
    would keep it from working with them. Warnings do not change it.
    """
    from fedssh.charity.judge import own_check
    from fedssh.use.check import show

    folders = folders_of(settings.state)
    said = own_check.Said(
        settings.size, settings.classes, settings.max_value, settings.patient, settings.columns, settings.holdout,
        settings.seed, settings.target, settings.features, settings.leave_out, settings.task,
    )  # fmt: skip
    if folders.ledger.is_file():
        checked = own_check.recorded(data, ledger_of(folders).record(1).fields, private_settings(folders), said)
    else:
        checked = own_check.unrecorded(data, said)
    show(checked, as_json)


def _check_table_settings(settings: InitSettings) -> None:
    """Refuse what is said of images where there are none."""
    said = {"--augment": settings.augment != "none", "--size": settings.size, "--max-value": settings.max_value}
    said |= {"--unlabelled": settings.unlabelled != "none"}
    if wrong := [option for option, value in said.items() if value]:
        raise SettingsError(f"{wrong[0]} is for images, and {settings.data} is a table of features", "leave it out")


def _look(settings: InitSettings, taken: Taken, said: dict[str, Any]) -> None:
    """Say in a line each what is worth knowing of her images before a federation begins with them.

    Raises:
        SettingsError: There is nothing to score models on.
    """
    from fedssh.charity.judge.own_images import reading_of, to_reading
    from fedssh.use import check

    private = said | {"classes": settings.classes, "max_value": settings.max_value}
    begun = {"class_names": taken.class_names, "table": taken.table, "spec": taken.spec}
    reading = to_reading(reading_of(begun, private))
    checked = check.coordinator_data(settings.data, reading, check.Agreed(taken.spec), unpack=False)
    if checked.found.total and "val" not in checked.found.counts:
        raise SettingsError(f"{settings.data} has no val split to score models on", check.NO_VAL)
    check.tell_warnings(checked, lambda line: click.echo(f"warning: {line}", err=True))


@charity.command(
    epilog=example("charity policies", "charity init --data xrays.npz --policy fedavg:fraction=0.5,deadline=60")
)
@json_option
def policies(as_json: bool) -> None:
    """List the policies for `charity init --policy NAME[:VALUE][,OPTION=VALUE…]`."""
    from fedssh.commands import print_json, print_table
    from fedssh.rules.policies import ROUND_OPTIONS, described, described_options

    rows, options = described(), described_options()
    if as_json:
        print_json({"policies": rows, "options": options})
        return
    shown = [[key for key in row["options"] if key not in ROUND_OPTIONS] for row in rows]
    columns = ("POLICY", "WHAT IT DOES", "OPTIONS")
    print_table(columns, [(row["policy"], row["does"], " ".join(own)) for row, own in zip(rows, shown, strict=True)])
    print("\nThe policies with rounds also have the options from `fraction` on.\n")
    columns = ("OPTION", "DEFAULT", "WHAT IT MEANS")
    print_table(columns, [(row["option"], row["default"], row["means"]) for row in options])


charity.add_command(plan)


@charity.command(
    epilog=example(
        "charity serve --door sshd --metrics /var/lib/node_exporter/fedssh.prom",
        "CHARITY_LOG_FORMAT=json charity serve --turn-timeout 3600",
    )
)
@settings_options(ServeSettings, "charity")
def serve(settings: ServeSettings) -> None:
    """Judge what arrives, until told to stop."""
    from fedssh.charity import serve as server
    from fedssh.charity.door_child import DoorChild
    from fedssh.charity.judge.client import Judge, judge_command
    from fedssh.charity.judge.own_images import reading_of
    from fedssh.charity.monitor import Monitor
    from fedssh.rules.thresholds import asked

    folders = folders_of(settings.state)
    genesis, private = ledger_of(folders).record(1).fields, private_settings(folders)
    use_networks(private.get("networks"))
    data = settings.data or Path(private["data"])
    stop = stop_event()
    child = DoorChild(settings.door, settings.state, settings.listen)
    monitor = Monitor(settings.metrics, folders, child.stands)

    def restarted(reason: str) -> None:
        server.tell_restart(reason)
        monitor.restarted()

    judge = Judge(
        judge_command(data, genesis["spec"], reading=reading_of(genesis, private), decision=asked(genesis)),
        settings.judge_start_timeout,
        settings.judge_timeout,
        restarted=restarted,
    )
    with child:
        server.serve(
            folders, judge, stop, settings=describe(settings), rescan_seconds=settings.rescan,
            turn_seconds=settings.turn_timeout, check=child.check, monitor=monitor,
        )  # fmt: skip


charity.add_command(door)


@charity.group(
    epilog=example("charity nodes add alice-1 alice-1.pub --address charity@charity.example:2222 > alice-1.json")
)
def nodes() -> None:
    """Enrol, list and revoke sites and auditors."""


@nodes.command(
    epilog=example("charity nodes add alice-1 alice-1.pub --address charity@charity.example:2222 > alice-1.json")
)
@click.argument("name")
@click.argument("keyfile", type=path_argument())
@settings_options(NodeSettings, "charity")
def add(settings: NodeSettings, name: str, keyfile: Path) -> None:
    """Enrol NAME with the public key in KEYFILE, and print its invitation.

    The invitation holds nothing secret: the address, the door's host key, the coordinator's key, the genesis hash.
    """
    from fedssh.address import parse_address
    from fedssh.charity import enrol
    from fedssh.charity.vault import Vault
    from fedssh.files import write_whole

    folders = folders_of(settings.state)
    address = settings.address or private_settings(folders).get("address")
    if address is None:
        raise SettingsError("--address is missing", "give it here, or once with `charity init --address`")
    parse_address(address)
    enrol.host_key(folders)
    vault = Vault(folders)
    enrol.add(vault, name, keyfile, settings.role)
    text = json.dumps(enrol.invitation(vault, name, address), indent=2) + "\n"
    if settings.out:
        write_whole(settings.out, text.encode(), 0o644)
    else:
        click.echo(text, nl=False)


@nodes.command(epilog=example("charity nodes invite alice-1 --address charity@charity.example:2222 > alice-1.json"))
@click.argument("name")
@settings_options(NodeSettings, "charity")
def invite(settings: NodeSettings, name: str) -> None:
    """Print the invitation of NAME, who is enrolled, once more."""
    from fedssh.charity import enrol
    from fedssh.charity.vault import Vault

    folders = folders_of(settings.state)
    address = settings.address or private_settings(folders).get("address")
    if address is None:
        raise SettingsError("--address is missing", "give it here, or once with `charity init --address`")
    click.echo(json.dumps(enrol.invitation(Vault(folders), name, address), indent=2))


@nodes.command("list", epilog=example("charity nodes list"))
@json_option
@settings_options(StateSettings, "charity")
def list_nodes(settings: StateSettings, as_json: bool) -> None:
    """Show everybody ever enrolled, and what each has sent."""
    from fedssh.history import views

    show_value("nodes", views.nodes(totals_of(settings.state)), as_json)


@nodes.command(epilog=example('charity nodes revoke alice-2 --reason "key lost on a laptop"'))
@click.argument("name")
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def revoke(settings: StateSettings, name: str, reason: str) -> None:
    """End NAME's enrolment at once: no login, no pending submission, no further release."""
    from fedssh.charity import enrol
    from fedssh.charity.vault import Vault

    record = enrol.revoke(Vault(folders_of(settings.state)), name, reason)
    click.echo(f"{name} is revoked, record {record.sequence}")


for _command in (cli_history.history, *cli_read.COMMANDS):
    charity.add_command(_command)


by_option = click.option("--by", metavar="WHO", help="Who says so.  [default: your login name]")
note_option = click.option("--note", metavar="TEXT", help="Why; goes into the history.")


@charity.command(
    epilog=example('charity tag best champion --note "on the wards since 1 May"', "charity tag 17 v1.0 --by operator-2")
)
@click.argument("n", metavar="RECORD", type=RecordNumber())
@click.argument("name")
@note_option
@by_option
@settings_options(StateSettings, "charity")
def tag(settings: StateSettings, n: str, name: str, note: str | None, by: str | None) -> None:
    """Call the model of RECORD by a NAME; if another has it, it moves. A rollback leaves names where they are.

    The name then stands for the record in show, diff, best, export, predict, score, audit and rollback, here and at the
    door. Names are 1 to 64 of a-z0-9._-, a letter first. Who gave which name when and why is in the history, signed.
    """
    from fedssh.charity import operate
    from fedssh.charity.vault import Vault

    number = number_of(settings.state, n)
    record = operate.tag(Vault(folders_of(settings.state)), number, name, _login() if by is None else by, note)
    click.echo(f"the model of record {number} is {name}, record {record.sequence}")


@charity.command(epilog=example('charity untag champion --note "withdrawn"'))
@click.argument("name")
@note_option
@by_option
@settings_options(StateSettings, "charity")
def untag(settings: StateSettings, name: str, note: str | None, by: str | None) -> None:
    """Take a NAME away from the model that has it."""
    from fedssh.charity import operate
    from fedssh.charity.vault import Vault

    record = operate.untag(Vault(folders_of(settings.state)), name, _login() if by is None else by, note)
    click.echo(f"no model is {name} any more, record {record.sequence}")


def _login() -> str:
    """The login name of whoever runs this.

    Raises:
        SettingsError: They have none, as in some containers.
    """
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise SettingsError("your account has no name", "say who you are with --by") from None


@charity.command(epilog=example('charity rollback 17 --reason "18 was trained on mislabelled images"'))
@click.argument("n", type=RecordNumber())
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def rollback(settings: StateSettings, n: str, reason: str) -> None:
    """Make the model of record N, or of a name, current again, and release it."""
    from fedssh.charity.operate import roll_back
    from fedssh.charity.vault import Vault

    number = number_of(settings.state, n)
    record = roll_back(Vault(folders_of(settings.state)), number, reason)
    click.echo(f"the model of record {number} is current again, record {record.sequence}")


@charity.command(epilog=example('charity finish --reason "good enough"'))
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def finish(settings: StateSettings, reason: str) -> None:
    """End the federation: sites stop after the session they are in."""
    from fedssh.charity.operate import finish as end
    from fedssh.charity.vault import Vault

    record = end(Vault(folders_of(settings.state)), reason)
    click.echo(f"finished, record {record.sequence}")


@charity.command(epilog=example("charity reopen --sessions 6"))
@click.option(
    "--sessions",
    type=click.IntRange(min=1),
    metavar="N",
    help="Sessions per site, or rounds; past ones included.  [default: no end]",
)
@click.option("--reason", default="by the coordinator", show_default=True, help="Goes into the history.")
@settings_options(StateSettings, "charity")
def reopen(settings: StateSettings, sessions: int | None, reason: str) -> None:
    """Go on with a finished federation."""
    from fedssh.charity.operate import reopen as resume
    from fedssh.charity.vault import Vault

    record = resume(Vault(folders_of(settings.state)), sessions, reason)
    click.echo(f"open again, record {record.sequence}")


def main() -> None:
    """Run `charity`."""
    entry(charity, "charity")


if __name__ == "__main__":
    main()

"""The command `alice`. Nothing here loads Keras before a training begins."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from fedssh.alice.limits import Limits
from fedssh.commands import entry, new_group, path_argument, print_json, print_table, settings_options, stop_event, tell
from fedssh.errors import SettingsError
from fedssh.forms import number
from fedssh.settings import REQUIRED, describe, setting
from fedssh.use import audit as auditing
from fedssh.use import command
from fedssh.use.usable import SHARE

_LIMITS = Limits()
_EXCHANGE = "Folder shared with bob."
_STATE = "Alice's own folder."
alice = new_group("alice", "Train a Keras model on this site's data, without network and without keys.")

JOIN_EXAMPLE = """Example:

\b
  alice join invitation.json --exchange exchange --state alice
"""
TERMS_EXAMPLE = """Example:

\b
  alice terms --exchange exchange --state alice
"""
ACCEPT_EXAMPLE = """Example:

\b
  alice accept 5c1f0a7e2b9d4c66
"""
TRAIN_EXAMPLE = """Example:

\b
  alice train --data site.npz --exchange exchange --state alice
"""
CHECK_EXAMPLE = """Example:

\b
  alice check photographs --patient '(person\\d+)_'
"""
AUDIT_EXAMPLE = """Example:

\b
  alice audit --data site.npz --shadows 16
  alice audit --data site.npz exchange/outgoing/*.safetensors
"""
STATUS_EXAMPLE = """Example:

\b
  alice status --exchange exchange --state alice --json
"""
PRIVACY_EXAMPLE = """Example:

\b
  alice privacy --exchange exchange --state alice --json
"""
EXPORT_EXAMPLE = """Example:

\b
  alice export best.keras --exchange exchange --state alice
"""
EXAMPLE = """Example:

\b
  alice join invitation.json        agree to the federation that bob is invited to
  alice train --data site.npz       train on MedMNIST- or Keras-style arrays
  alice train --data photographs    train on a folder of images per class
"""
alice.epilog = EXAMPLE


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `alice train`."""

    data: Path = setting(REQUIRED, "Images: an .npz file or a folder per class.", "PATH")
    unlabelled: Path | None = setting(None, "Images for split:decoder; as of predict.", "PATH")
    exchange: Path = setting(Path("exchange"), _EXCHANGE, "DIR")
    state: Path = setting(Path("alice"), _STATE, "DIR")
    sessions: int = setting(0, "Sessions to train now; 0: all there are.", "N", at_least=0)
    epochs: int = setting(0, "Most epochs of a session; 0: as the plan says.", "N", at_least=0)
    seed: int = setting(1, "For the validation split and the order.", "N", at_least=0)
    validation: float = setting(
        0.15, "Share held out when the data has no val split; 0: score on the training images.", "SHARE", at_least=0
    )
    classes: str | None = setting(None, "What classes are called here: HERE=AGREED,…", "NAMES")
    learning_rate_factor: float = setting(1.0, "Of the agreed rate, where a part is allowed.", "X", at_least=0)
    batch_size: int = setting(0, "Images per step, where fewer are allowed; 0: as agreed.", "N", at_least=0)
    max_value: int | None = setting(None, "White in integer pixels, such as 4095.", "N", at_least=1)
    patient: str | None = setting(None, "Finds the patient in a file's path: (person\\d+)_", "REGEX")
    columns: str | None = setting(None, "Of a .csv: file=NAME,label=NAME,split=…,patient=…", "NAMES")
    memory: float = setting(SHARE, "Of memory for images; more streams from disk.", "SHARE", at_least=0)
    canaries: int = setting(0, "Mislabel N images, train on half: see audit.", "N", at_least=0)
    online: float = setting(0.0, "Train on new images only; hold an idle turn so long.", "SECONDS", at_least=0)
    wait: float = setting(0.0, "For a first release; 0: for ever.", "SECONDS", at_least=0)
    settle: float = setting(2.0, "For a last checkpoint's verdict.", "SECONDS", at_least=0)
    threads: int = setting(0, "CPU threads; 0: all cores.", "N", at_least=0)
    tensorboard: bool = setting(True, "Write TensorBoard logs.")
    watch_gradients: bool = setting(False, "Under split: stop where the coordinator hijacks the training.")
    networks: Path | None = setting(None, "A folder with networks of your own.", "DIR")
    invitation: Path | None = setting(None, "Join by this file when nothing is agreed to yet.", "FILE")
    architectures: str = setting("all", "Networks allowed here, such as cnn,lenet.", "NAMES")
    max_weights: int = setting(_LIMITS.max_weights, "Largest network.", "N", at_least=1)
    max_learning_rate: float = setting(_LIMITS.max_learning_rate, "Largest learning rate.", "RATE", at_least=0)
    min_batch_size: int = setting(_LIMITS.min_batch_size, "Fewest images per step.", "N", at_least=1)
    max_batch_size: int = setting(_LIMITS.max_batch_size, "Most images per step.", "N", at_least=1)
    max_epochs: int = setting(_LIMITS.max_epochs, "Longest session that a plan may ask for.", "N", at_least=1)
    max_sessions: int = setting(_LIMITS.max_sessions, "Most sessions in one federation, in all.", "N", at_least=1)
    min_steps: int = setting(_LIMITS.min_steps, "Steps before a session's model may leave.", "N", at_least=1)
    min_accuracy: float = setting(_LIMITS.min_accuracy, "Smallest score worth shipping.", "SHARE", at_least=0)
    max_audit_auc: float = setting(
        _LIMITS.max_audit_auc, "Highest AUC of an audit that may leave; 1: none.", "AUC", at_least=0.5
    )
    privacy_budget: float | None = setting(
        None, "Most epsilon to spend; no training without privacy.", "EPS", form=number(above=0)
    )

    @property
    def limits(self) -> Limits:
        """This site's own limits."""
        listed = () if self.architectures == "all" else self.architectures.split(",")
        names = tuple(filter(None, (name.strip() for name in listed)))
        same = {field.name: getattr(self, field.name) for field in fields(Limits) if field.name != "architectures"}
        return Limits(names, **same)


@alice.command(epilog=TRAIN_EXAMPLE)
@settings_options(TrainSettings, "alice")
def train(settings: TrainSettings) -> None:
    """Train session after session from the newest release; publish every checkpoint that improves."""
    from fedssh.alice.exchange import Exchange
    from fedssh.alice.memory import alone

    logger = logging.getLogger("alice")
    stop = stop_event()
    _use(settings.networks)
    tell(logger, "start", f"starting with {describe(settings)}")
    with alone(settings.state):
        exchange = Exchange(settings.exchange)
        exchange.tidy()
        _agree(settings.state, settings.invitation, exchange.incoming)

        from fedssh.alice import canaries, own_data

        reading = own_data.said(settings.classes, settings.max_value, settings.patient, settings.columns)
        warn = functools.partial(tell, logger, "data", level=logging.WARNING)
        own_data.warn(settings.data, reading, settings.exchange, settings.state, warn)

        store = own_data.store_in(settings.state, settings.memory, lambda line: tell(logger, "data", line), stop)

        from fedssh.alice.learner import Network
        from fedssh.alice.own_rates import OwnRates
        from fedssh.alice.train import Alice

        drawn = canaries.agreed(settings.state, settings.canaries)
        if drawn is not None:
            tell(logger, "canaries", f"{len(drawn)} canaries: wrong labels here, half of them trained on")
        logs = settings.state / "logs" if settings.tensorboard else None
        network = Network(
            settings.data, settings.seed, settings.threads, logs, settings.validation, reading.given,
            settings.max_value, lambda line: tell(logger, "data", line), patient=reading.patient,
            columns=reading.columns, store=store, watch_gradients=settings.watch_gradients,
            unlabelled=settings.unlabelled,
            online=settings.online > 0, canaries=drawn,
        )  # fmt: skip
        tell(logger, "device", f"training on {network.devices}", devices=network.devices)
        trainer = Alice(
            exchange, settings.state, network, settings.epochs or None, settings.settle, stop, settings.limits,
            OwnRates(settings.learning_rate_factor, settings.batch_size or None), settings.online or None,
        )  # fmt: skip
        trainer.run(settings.sessions or None, settings.wait)


@dataclass(frozen=True)
class CheckSettings:
    """Settings of `alice check`: of those of `alice train`, the ones that say how images are read."""

    exchange: Path = setting(Path("exchange"), _EXCHANGE, "DIR")
    state: Path = setting(Path("alice"), _STATE, "DIR")
    classes: str | None = setting(None, "What classes are called here: HERE=AGREED,…", "NAMES")
    max_value: int | None = setting(None, "White in integer pixels, such as 4095.", "N", at_least=1)
    patient: str | None = setting(None, "Finds the patient in a file's path: (person\\d+)_", "REGEX")
    columns: str | None = setting(None, "Of a .csv: file=NAME,label=NAME,split=…,patient=…", "NAMES")
    memory: float = setting(SHARE, "Of memory for images; more streams from disk.", "SHARE", at_least=0)


@alice.command(epilog=CHECK_EXAMPLE)
@click.argument("data", type=path_argument())
@click.option("--json", "as_json", is_flag=True, help="For programs; all names are in it.")
@settings_options(CheckSettings, "alice")
def check(settings: CheckSettings, data: Path, as_json: bool) -> None:
    """Look through this site's images before a training: all that is wrong with them, at once.

    Exit code 1: something would keep them from being trained on. Warnings do not change it.
    """
    from fedssh.alice import own_data
    from fedssh.use.check import show

    reading = own_data.said(settings.classes, settings.max_value, settings.patient, settings.columns)
    show(own_data.look_through(data, reading, settings.exchange, settings.state, settings.memory), as_json)


@dataclass(frozen=True)
class AuditSettings:
    """Settings of `alice audit`: of those of `alice train`, the ones that say which images are trained on."""

    data: Path = setting(REQUIRED, "Images: an .npz file or a folder per class.", "PATH")
    exchange: Path = setting(Path("exchange"), _EXCHANGE, "DIR")
    state: Path = setting(Path("alice"), _STATE, "DIR")
    seed: int = setting(1, "For the validation split and the order.", "N", at_least=0)
    validation: float = setting(
        0.15, "Share held out when the data has no val split; 0: score on the training images.", "SHARE", at_least=0
    )
    classes: str | None = setting(None, "What classes are called here: HERE=AGREED,…", "NAMES")
    max_value: int | None = setting(None, "White in integer pixels, such as 4095.", "N", at_least=1)
    patient: str | None = setting(None, "Finds the patient in a file's path: (person\\d+)_", "REGEX")
    columns: str | None = setting(None, "Of a .csv: file=NAME,label=NAME,split=…,patient=…", "NAMES")
    memory: float = setting(SHARE, "Of memory for images; more streams from disk.", "SHARE", at_least=0)
    threads: int = setting(0, "CPU threads; 0: all cores.", "N", at_least=0)
    networks: Path | None = setting(None, "A folder with networks of your own.", "DIR")


@alice.command(epilog=AUDIT_EXAMPLE)
@click.argument("model", required=False, type=path_argument())
@auditing.audit_options
@settings_options(AuditSettings, "alice")
def audit(settings: AuditSettings, model: Path | None, non_members: str | None, **options: Any) -> None:
    """Attack the newest release, or a MODEL file: can one tell from it who was trained on?

    Members are the images that `alice train` trains on by these settings, non-members those that it holds out. At least
    what is found leaks; nothing found is no proof.
    """
    from fedssh.alice import audit as own

    _use(settings.networks)
    own.run(settings, model, non_members, auditing.Asked(seed=settings.seed, **options))


def _use(networks: Path | None) -> None:
    """Look for networks in a folder of this site's own, too.

    Raises:
        SettingsError: It is no folder.
    """
    from fedssh.models import own

    try:
        own.use(networks)
    except ValueError as error:
        raise SettingsError(f"--networks: {error}") from None


def _agree(state: Path, invitation: Path | None, incoming: Path) -> None:
    """See that something is agreed to, by the invitation when there is one."""
    from fedssh.alice.incoming import read_offer
    from fedssh.alice.news import not_agreed
    from fedssh.alice.terms import join, load_pin, read_invitation

    if invitation is not None:
        join(state, read_invitation(invitation), read_offer(incoming))
    elif load_pin(state) is None:
        raise not_agreed(state)


@dataclass(frozen=True)
class PlaceSettings:
    """Settings of `alice join`, `terms`, `accept` and `status`."""

    exchange: Path = setting(Path("exchange"), _EXCHANGE, "DIR")
    state: Path = setting(Path("alice"), _STATE, "DIR")
    networks: Path | None = setting(None, "A folder with networks of your own.", "DIR")


@alice.command("join", epilog=JOIN_EXAMPLE)
@click.argument("invitation", type=path_argument())
@settings_options(PlaceSettings, "alice")
def join_command(settings: PlaceSettings, invitation: Path) -> None:
    """Agree to the federation of bob's invitation."""
    from fedssh.alice.incoming import read_offer
    from fedssh.alice.memory import alone
    from fedssh.alice.terms import join, read_invitation

    with alone(settings.state):
        pin = join(settings.state, read_invitation(invitation), read_offer(settings.exchange / "incoming"))
    print(f"{pin.site} has agreed to the federation with the genesis {pin.genesis}")
    seen = "what it says is shown by" if pin.record else "once bob has brought it, what it says is shown by"
    print(f"{seen} `alice terms`")


@alice.command(epilog=TERMS_EXAMPLE)
@settings_options(PlaceSettings, "alice")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def terms(settings: PlaceSettings, as_json: bool) -> None:
    """Show what this site has agreed to, and what differs in what is offered."""
    from fedssh.alice import terms as agreement
    from fedssh.alice.incoming import read_offer

    _use(settings.networks)
    pin, offered = agreement.load_pin(settings.state), read_offer(settings.exchange / "incoming")
    agreed = agreement.kept(pin, offered) if pin else None
    ours, theirs = (agreement.rows(one, _weights(one.spec)) if one else None for one in (agreed, offered))
    if as_json:
        print_json({"pinned": pin.genesis if pin else None, "agreed": ours, "offered": theirs})
        return
    if pin is None:
        print("nothing is agreed to yet")
    elif ours is None:
        print(f"agreed to the genesis {pin.genesis}, which bob has not brought yet")
    else:
        print_table(("agreed to", ""), list(ours.items()))
    if offered is None or theirs is None or (pin and pin.genesis == offered.hash):
        return
    print()
    if ours is None:
        print_table(("offered", ""), list(theirs.items()))
    else:
        print_table(("differs", "agreed to", "offered"), list(agreement.differences(ours, theirs)))
    print(f"\n`alice accept {offered.hash}` agrees to what is offered")


@alice.command(epilog=ACCEPT_EXAMPLE)
@click.argument("hash")
@settings_options(PlaceSettings, "alice")
def accept(settings: PlaceSettings, hash: str) -> None:
    """Agree to what is offered, by its hash.

    `alice terms` shows it; 16 letters are enough. Compare it with what the coordinator's operator says. Agreeing anew
    to the same allows going back to an older release, after the coordinator was restored from a copy.
    """
    from fedssh.alice import memory
    from fedssh.alice import terms as agreement
    from fedssh.alice.incoming import read_offer

    with memory.alone(settings.state):
        agreed = agreement.accept(settings.state, hash, read_offer(settings.exchange / "incoming"))
        memory.forget_seen(settings.state)
    print(f"agreed to the federation {agreement.rows(agreed)['federation']} with the genesis {agreed.hash}")


def _weights(spec: dict[str, Any]) -> int | None:
    """How many weights a network has; None when it cannot be built here."""
    from fedssh.alice.news import count
    from fedssh.models import shapes

    try:
        return count(shapes(spec))
    except ValueError:
        return None


@alice.command(epilog=STATUS_EXAMPLE)
@settings_options(PlaceSettings, "alice")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(settings: PlaceSettings, as_json: bool) -> None:
    """Show what is agreed to, trained and waiting, and how bob stands with the door."""
    from fedssh.alice import memory
    from fedssh.alice.exchange import Exchange
    from fedssh.alice.incoming import read_status
    from fedssh.alice.terms import load_pin

    exchange, known, pin = Exchange(settings.exchange), memory.load(settings.state), load_pin(settings.state)
    door = read_status(exchange.incoming)
    found = {
        "federation": known.federation,
        "agreed": pin.genesis if pin else None,
        "sessions": known.trained.sessions,
        "release": exchange.newest_sequence(),
        "taken": known.seen.sequence or None,
        "confirmed": door.confirmed,
        "refused_since": door.refused_since,
        "reason": door.reason,
        "waiting": len(exchange.waiting()),
    }
    if as_json:
        print_json(found)
        return
    names = {
        "federation": "federation",
        "agreed": "agreed to the genesis",
        "sessions": "sessions trained",
        "release": "newest release here",
        "taken": "newest release taken",
        "confirmed": "the door said so last",
        "refused_since": "not let in since",
        "reason": "because",
        "waiting": "waiting for bob",
    }
    print_table(("site", ""), [(name, found[key]) for key, name in names.items()])


@dataclass(frozen=True)
class PrivacySettings:
    """Settings of `alice privacy`."""

    exchange: Path = setting(Path("exchange"), _EXCHANGE, "DIR")
    state: Path = setting(Path("alice"), _STATE, "DIR")
    privacy_budget: float | None = setting(None, "As of `alice train`.", "EPS", form=number(above=0))
    examples: int = setting(0, "Training images, for a session's price; 0: as last charged.", "N", at_least=0)


@alice.command(epilog=PRIVACY_EXAMPLE)
@settings_options(PrivacySettings, "alice")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def privacy(settings: PrivacySettings, as_json: bool) -> None:
    """Show what of its privacy this site has spent and what is left, and what the next session costs.

    Exit code 3: the next session would be more than may be spent.
    """
    from fedssh.alice import account
    from fedssh.alice.incoming import read_offer
    from fedssh.alice.terms import kept, load_pin
    from fedssh.rules.plan import read_plan

    pin = load_pin(settings.state)
    agreed = kept(pin, read_offer(settings.exchange / "incoming")) if pin else None
    plan = read_plan(agreed.plan) if agreed else None
    found = account.shown(account.load(settings.state), plan, settings.examples or None, settings.privacy_budget)
    if as_json:
        print_json(found)
    else:
        names = {"unit": "hides one", "sessions": "sessions charged", "after": "after the next session"}
        print_table(("privacy", ""), [(names.get(name, name), value) for name, value in found.items()])
    if found["refused"]:
        raise SystemExit(3)


@alice.command(epilog=EXPORT_EXAMPLE)
@click.argument("file", type=path_argument(exists=False))
@click.option(
    "--max-value", type=click.IntRange(1, 65535), default=255, show_default=True, help="White in the pixels it takes."
)
@settings_options(PlaceSettings, "alice")
def export(settings: PlaceSettings, file: Path, max_value: int) -> None:
    """Write the newest release that this site holds as FILE.keras, FILE.onnx or a TensorFlow FOLDER.savedmodel.

    It takes raw pixels, and carries class names, threshold, the record's hash and a model card. ONNX needs the extra
    onnx.
    """
    from fedssh.alice.newest import average_told, newest_release

    _use(settings.networks)
    with newest_release(settings.exchange, settings.state) as (origin, model):
        for line in average_told(origin):
            click.echo(line, err=True)
        command.export(origin, model, file, max_value)


@alice.command(epilog=command.EXAMPLE.format("alice"))
@command.predict_options
@settings_options(PlaceSettings, "alice")
def predict(settings: PlaceSettings, data: Path, **options: Any) -> None:
    """Say what the newest release that this site holds makes of images: a row for each, as CSV.

    Exit code 1: some images could not be read; their rows say why.
    """
    from fedssh.alice.newest import average_told, newest_release

    _use(settings.networks)
    with newest_release(settings.exchange, settings.state) as (origin, model):
        for line in average_told(origin):
            click.echo(line, err=True)
        command.predict(origin, model, data, **options)


def main() -> None:
    """The entry point of `alice`."""
    entry(alice, "alice")

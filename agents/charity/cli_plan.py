"""`charity plan`: what federated averaging and split learning would cost, before anybody begins.

Added to the group in cli.py. Nothing here imports what the command does not need before it runs.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedssh.charity.cli_read import (
    Recorded,
    StateSettings,
    example,
    folders_of,
    json_option,
    ledger_of,
    private_settings,
    use_networks,
)
from fedssh.commands import settings_options
from fedssh.errors import SettingsError
from fedssh.forms import Expected, Form, number, whole
from fedssh.rules.terms import FORMS
from fedssh.settings import setting

if TYPE_CHECKING:
    from fedssh.charity.judge.costs import Training

_BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SECONDS = {"ms": 1e-3, "s": 1.0}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,2})")
_TRAINING = ("epochs", "batch_size", "optimizer", "momentum")


def _with_unit(units: dict[str, float], such_as: str, least: float) -> Form[float]:
    """A number and its unit, such as `100Mbit`; as bits a second or as seconds."""

    def take(value: Any) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]+)(?:/s)?", value.strip().lower()) if type(value) is str else None
        if not found or found[2] not in units or not least <= float(found[1]) * units[found[2]] <= 1e15:
            raise Expected(f"expected a number and {', '.join(units)}, such as {such_as}")
        return float(found[1]) * units[found[2]]

    return Form(take)


@dataclass(frozen=True)
class PlanSettings(StateSettings):
    """What a federation is, or would be."""

    architecture: str | None = setting(
        None, "A network's name, a spec as JSON, or @FILE.  [that of --state]", metavar="SPEC"
    )
    size: str | None = setting(None, "With --architecture: its images, such as 28x28x1.", metavar="HxWxC")
    outputs: int = setting(2, "With --architecture: how many classes.", metavar="N", form=whole(2, 10_000))
    networks: Path | None = setting(None, "A folder with networks of your own.", metavar="DIR")
    images: int | None = setting(None, "Of each site.  [what those of --state say]", metavar="N", form=whole(1, 10**9))
    sites: int | None = setting(None, "How many.  [those of --state; 1]", metavar="K", form=whole(1, 10**6))
    epochs: int | None = setting(None, "In a round or turn.  [of its rounds; 1]", metavar="E", form=whole(1, 10**6))
    batch_size: int | None = setting(None, "Images in a step.  [as agreed; 64]", metavar="B", form=whole(1, 10**6))
    optimizer: str | None = setting(None, "Of Keras.  [as agreed; adam]", metavar="NAME", form=FORMS["optimizer"])
    momentum: float | None = setting(None, "Of sgd.  [as agreed; 0]", metavar="X", form=number(least=0, below=1))
    bandwidth: float | None = setting(
        None, "Of a site's line.  [100Mbit]", metavar="BITS", form=_with_unit(_BITS, "100Mbit", 1)
    )
    rtt: float | None = setting(
        None, "To the coordinator and back.  [20ms]", metavar="TIME", form=_with_unit(_SECONDS, "20ms", 0)
    )
    compute: float | None = setting(
        None, "What both sides compute for a step.  [0ms]", metavar="TIME", form=_with_unit(_SECONDS, "13ms", 0)
    )
    cut: str | None = setting(None, "Cut after this layer; with --labels site two.", metavar="LAYER[,LAYER]")
    wire: str | None = setting(None, "How numbers pass it.  [as agreed; f16]", choices=("f32", "f16", "int8"))
    labels: str | None = setting(
        None, "Where labels are; site: the U shape.  [as agreed; coordinator]", choices=("coordinator", "site")
    )
    order: str | None = setting(
        None, "parallel: all sites at once, SplitFed.  [as agreed; turns]", choices=("turns", "parallel")
    )


@click.command(
    epilog=example(
        "charity plan --images 1400 --bandwidth 20Mbit --rtt 50ms",
        "charity plan --architecture cnn --size 28x28x1 --images 1400 --cut pool2",
    )
)
@click.option("--all", "every", is_flag=True, help="All cuts, also those that pass no less than one before.")
@json_option
@settings_options(PlanSettings, "charity")
def plan(settings: PlanSettings, every: bool, as_json: bool) -> None:
    """Compare what federated averaging and split learning cost a site: bytes, computation, time on the line.

    Of the federation in --state, or of a network. EVEN is up to how many images a site sends no more with the network
    split. COMPUTES is what a site computes then, in parts of what it does under fedavg. Exit code 2: it cannot be cut
    there; the message names the places.
    """
    from fedssh.charity.costs import said, text
    from fedssh.charity.judge.costs import Asked, compared
    from fedssh.commands import print_json
    from fedssh.rules.costs import Line

    spec, training, agreed = _imagined(settings) if settings.architecture else _begun(settings)
    parallel = (settings.order or agreed.get("order")) == "parallel"
    labels = settings.labels or agreed.get("labels", "coordinator")
    agreed = agreed if labels == agreed.get("labels") else {}  # its cuts go with who has the labels
    cut = tuple(layer.strip() for layer in settings.cut.split(",")) if settings.cut else _agreed_cut(agreed)
    line = Line(
        100e6 if settings.bandwidth is None else settings.bandwidth, 0.02 if settings.rtt is None else settings.rtt
    )
    wire = settings.wire or agreed.get("wire", "f16")
    found = compared(spec, training, Asked(line, wire, labels, parallel, cut, every, settings.compute or 0.0))
    if as_json:
        print_json(found | {"said": said(found).split("\n")[:-1]})
    else:
        click.echo(text(found), nl=False)


def _agreed_cut(agreed: dict[str, Any]) -> tuple[str, ...]:
    """Where the network is cut of a federation that splits it."""
    return tuple(agreed[name] for name in ("cut", "tail") if name in agreed)


def _imagined(settings: PlanSettings) -> tuple[dict[str, Any], Training, dict[str, Any]]:
    """The network that `--architecture` names, with all that is said of it."""
    from fedssh.charity.judge.own_images import read_architecture
    from fedssh.models import check_spec

    use_networks(settings.networks)
    named = read_architecture(settings.architecture)
    if settings.size is not None:
        size = _SIZE.fullmatch(settings.size)
        if not size:
            raise SettingsError(f"--size is {settings.size!r}, expected HEIGHTxWIDTHxCHANNELS", "such as 28x28x1")
        named = {**named, "input": [int(one) for one in size.groups()]}
    if "input" not in named:
        raise SettingsError("--size is missing", "the network's images, such as --size 28x28x1")
    try:
        spec = check_spec({**({} if "task" in named else {"classes": settings.outputs}), **named})
    except ValueError as error:
        raise SettingsError(f"--architecture: {error}") from None
    if settings.images is None:
        raise SettingsError("--images is missing", "how many images each site has, such as --images 1400")
    return spec, _training(settings, {}, settings.images, 1), {}


def _begun(settings: PlanSettings) -> tuple[dict[str, Any], Training, dict[str, Any]]:
    """What a federation has agreed on: network, training, and how the network is split, if it is.

    Its sites say how many images they have.
    """
    from fedssh.rules.policies import read_policy

    if settings.size is not None:
        raise SettingsError("--size is what the federation in --state has agreed on", "give it with --architecture")
    folders = folders_of(settings.state)
    if not folders.ledger.is_file():
        raise SettingsError(f"there is no federation in {settings.state}", "name a network with --architecture")
    ledger = ledger_of(folders)
    genesis = ledger.record(1).fields
    use_networks(settings.networks or private_settings(folders).get("networks"))
    has: dict[str, int] = {}
    for row in Recorded(ledger).rows(1):
        if row.get("site") and type(row.get("examples")) is int:
            has[row["site"]] = row["examples"]
    images = settings.images or (round(statistics.median(has.values())) if has else None)
    if not images:
        raise SettingsError(
            "--images is missing", "no site has said yet how many images it has; give it, such as --images 1400"
        )
    policy = read_policy(genesis["policy"])
    order = "parallel" if policy.rounds else "turns"
    agreed = {**policy.values, "order": order} if policy.split else {}
    return genesis["spec"], _training(settings, genesis["plan"], images, len(has) or 1), agreed


def _training(settings: PlanSettings, agreed: dict[str, Any], images: int, sites: int) -> Training:
    """How the sites train: as it is said here, as it was agreed, or as usual."""
    from fedssh.charity.judge.costs import Training
    from fedssh.rules.terms import check_momentum

    usual = {"epochs": 1, "batch_size": 64, "optimizer": "adam", "momentum": 0.0}
    agreed = {name: agreed[name] for name in _TRAINING if name in agreed and (name != "epochs" or _rounds(agreed))}
    asked = {name: getattr(settings, name) for name in _TRAINING if getattr(settings, name) is not None}
    if "optimizer" in asked and "momentum" not in asked:
        agreed.pop("momentum", None)  # of another optimizer
    of = {**usual, **agreed, **asked}
    try:
        check_momentum(of["momentum"], of["optimizer"])
    except ValueError as error:
        raise SettingsError(f"--momentum is {of['momentum']:g}, but {error}") from None
    return Training(images, settings.sites or sites, of["epochs"], of["batch_size"], of["optimizer"], of["momentum"])


def _rounds(agreed: dict[str, Any]) -> bool:
    """Whether a site sends one model a session: else its epochs are the most that a session may have."""
    return agreed.get("publish") == "session"

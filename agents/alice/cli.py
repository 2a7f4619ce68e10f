"""The command `alice`. Nothing here loads Keras before a training begins."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import click

from agents.commands import entry, new_group, print_json, print_table, settings_options, stop_event, tell
from agents.settings import REQUIRED, describe, setting

alice = new_group("alice", "Train a Keras model on this site's data, without network and without keys.")

TRAIN_EXAMPLE = """Example:

\b
  alice train --data site.npz --exchange exchange --state alice
"""
STATUS_EXAMPLE = """Example:

\b
  alice status --exchange exchange --state alice --json
"""
EXAMPLE = """Example:

\b
  alice train --data site.npz       train on MedMNIST- or Keras-style arrays
  alice train --data photographs    train on a folder of images per class
"""
alice.epilog = EXAMPLE


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `alice train`."""

    data: Path = setting(REQUIRED, "The site's images: an .npz file or a folder of images per class.", "PATH")
    exchange: Path = setting(Path("exchange"), "Folder shared with bob.", "DIR")
    state: Path = setting(Path("alice"), "Alice's own folder: session counter and TensorBoard logs.", "DIR")
    sessions: int = setting(0, "Sessions to train now; 0: until the federation is finished.", "N", at_least=0)
    epochs: int = setting(0, "Most epochs of a session; 0: what the coordinator's plan says.", "N", at_least=0)
    seed: int = setting(1, "For the validation split and the order of training.", "N", at_least=0)
    validation: float = setting(
        0.15, "Share held out when the data has no val split; 0: score on the training images.", "SHARE", at_least=0
    )
    wait: float = setting(0.0, "Seconds to wait for a first release; 0: for ever.", "SECONDS", at_least=0)
    settle: float = setting(2.0, "Seconds a session's last checkpoint may take to come back.", "SECONDS", at_least=0)
    threads: int = setting(0, "CPU threads; 0: all cores.", "N", at_least=0)
    tensorboard: bool = setting(True, "Write TensorBoard logs.")


@alice.command(epilog=TRAIN_EXAMPLE)
@settings_options(TrainSettings, "alice")
def train(settings: TrainSettings) -> None:
    """Train session after session, each from the newest release, and publish every checkpoint that improves on it."""
    from agents.alice.exchange import Exchange
    from agents.alice.memory import alone

    logger = logging.getLogger("alice")
    stop = stop_event()
    tell(logger, "start", f"starting with {describe(settings)}")
    with alone(settings.state):
        exchange = Exchange(settings.exchange)
        exchange.tidy()

        from agents.alice.network import Network
        from agents.alice.train import Alice

        logs = settings.state / "logs" if settings.tensorboard else None
        network = Network(settings.data, settings.seed, settings.threads, logs, settings.validation)
        tell(logger, "device", f"training on {network.devices}", devices=network.devices)
        trainer = Alice(exchange, settings.state, network, settings.epochs or None, settings.settle, stop)
        trainer.run(settings.sessions or None, settings.wait)


@dataclass(frozen=True)
class StatusSettings:
    """Settings of `alice status`."""

    exchange: Path = setting(Path("exchange"), "Folder shared with bob.", "DIR")
    state: Path = setting(Path("alice"), "Alice's own folder.", "DIR")


@alice.command(epilog=STATUS_EXAMPLE)
@settings_options(StatusSettings, "alice")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(settings: StatusSettings, as_json: bool) -> None:
    """Show what was trained so far, the newest release, and what waits for bob."""
    from agents.alice import memory
    from agents.alice.exchange import Exchange

    exchange, known = Exchange(settings.exchange), memory.load(settings.state)
    found = {
        "federation": known.federation,
        "sessions": known.trained.sessions,
        "release": exchange.newest_sequence(),
        "waiting": len(exchange.waiting()),
    }
    if as_json:
        print_json(found)
    else:
        print_table(("federation", "sessions", "newest release", "waiting for bob"), [list(found.values())])


def main() -> None:
    """The entry point of `alice`."""
    entry(alice, "alice")

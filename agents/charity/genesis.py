"""Beginning a federation: the coordinator's key, the door's host key, and the first model.

The genesis record comes last and makes it one. Until then `charity init` can be given again and goes on where it
stopped; keys are never made twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh import weights
from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.charity.judge.own_images import reading_of
from fedssh.charity.vault import COORDINATOR, PUBLIC, Vault, publish_history
from fedssh.errors import AgentError, JudgeError, SettingsError
from fedssh.files import locked, move_whole, sha256_file, sweep, write_whole
from fedssh.forms import MAX_BYTES, canonical
from fedssh.host_key import make_host_key
from fedssh.keys import PrivateKey, load_private, make_key
from fedssh.ledger import Ledger
from fedssh.models import loss_name
from fedssh.rules.events import Genesis, Record
from fedssh.rules.gate import Gate, told
from fedssh.rules.label_shares import is_calibrated, label_shares
from fedssh.rules.thresholds import asked

_OTHER_FIELDS_BYTES = 8192


@dataclass(frozen=True)
class Start:
    """What the first model comes from, beside the seed.

    Attributes:
        epochs: On the coordinator's own split `train`; 0 needs no such split and publishes the weights as they are.
        weights: A file with weights to begin from; None takes random ones.
        tell: Called with one line on what was taken from that file.
    """

    epochs: int = 1
    weights: Path | None = None
    tell: Callable[[str], None] = lambda line: None


_RANDOM = Start()


def loss_of(spec: dict[str, Any]) -> str:
    """The loss that every site trains with."""
    return loss_name(spec)


def begin(
    folders: Folders,
    data: Path,
    agreement: dict[str, Any],
    seed: int,
    private: dict[str, Any],
    judge: Judge | None = None,
    start: Start = _RANDOM,
) -> Record:
    """Make a coordinator's keys and its first model, and record the genesis.

    Args:
        folders: Where it goes; may hold an unfinished beginning.
        data: The coordinator's images: `train` for genesis, `val` as the holdout.
        agreement: What the genesis record says of it, see `agreement`.
        seed: For random weights and the order of training.
        private: Settings that later commands need, for vault/charity.json.
        judge: Another judge than the real one.
        start: Where the first model's weights come from, and how long they are trained.

    Raises:
        SettingsError: There is a federation already, the given weights do not fit the architecture, or there are too
            many classes for a calibrated loss.
    """
    folders.make()
    with locked(folders.vault / "lock", f"another command works on {folders.state}"):
        ledger = Ledger.create(folders.ledger)
        if ledger.head() is not None:
            raise SettingsError(f"{folders.state} holds a federation already", "`charity status` shows it")
        key = _coordinator_key(folders)
        make_host_key(folders.host_key)
        write_whole(folders.settings, json.dumps(private | {"data": str(data.resolve())}, indent=2).encode() + b"\n")
        judge = judge or _judge(data, agreement, private)
        model, answer, holdout = _first_model(folders, agreement, seed, start, judge)
        _check_room(answer["metrics"], holdout["examples"])
        fields = {
            **agreement,
            "policy": answer.get("policy", agreement["policy"]),
            "plan": _plan(agreement["plan"], answer),
            "coordinator": key.public.line,
            "architecture": weights.architecture_hash(agreement["spec"]),
            "model": model,
            "metrics": told(
                Gate(agreement["gate"], agreement["margin"], agreement["plan"]["metric"]), answer["metrics"]
            ),
            "examples": answer["examples"],
            "seed": seed,
            "epochs": start.epochs,
            "holdout": holdout,
            **({"weights": answer["weights"]} if start.weights else {}),
            **({"network": answer["network"]} if "network" in answer else {}),
        }
        record = ledger.append(Genesis.name, Genesis.read(fields, "the genesis").fields(), key)
        publish_history(folders, ledger)
        ledger.close()
    Vault(folders).repair()
    return record


def _plan(plan: dict[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The plan that genesis records: what was agreed, an autoencoder's cut, a calibrated loss's shares of labels."""
    if "unlabelled" in answer:
        plan = plan | {"unlabelled": answer["unlabelled"]}
    if not is_calibrated(plan):
        return plan
    try:
        return plan | {"label_shares": label_shares(answer["label_counts"])}
    except ValueError as error:
        raise SettingsError(f"--calibrate: {error}", "leave --calibrate out") from None


def _check_room(metrics: dict[str, Any], examples: int) -> None:
    """Check that no model's scores can outgrow a record, which holds the candidate's and the current model's.

    Raises:
        SettingsError: The confusion matrix has too many classes.
    """
    classes = len(metrics.get("confusion", ()))
    cells = classes**2
    spread = min(cells, examples) * (len(str(max(1, examples // max(1, cells)))) + 1) + cells
    most = 2 * (max(len(canonical(metrics)), spread) + 30 * classes)
    if most > MAX_BYTES - _OTHER_FIELDS_BYTES:
        raise SettingsError(
            f"scores of {classes} classes can take {most:,} bytes, a record has room for "
            f"{MAX_BYTES - _OTHER_FIELDS_BYTES:,}",
            "take an architecture with fewer classes",
        )


def is_begun(folders: Folders) -> bool:
    """Whether there is a federation with its genesis."""
    return folders.ledger.is_file() and Ledger.create(folders.ledger).head() is not None


def _coordinator_key(folders: Folders) -> PrivateKey:
    sweep(folders.vault)
    if not folders.key.exists():
        return make_key(folders.key, COORDINATOR)
    key = load_private(folders.key)  # an earlier beginning came as far as this
    write_whole(folders.key.with_name(folders.key.name + ".pub"), f"{key.public.line} {COORDINATOR}\n".encode(), PUBLIC)
    return key


def _judge(data: Path, agreement: Mapping[str, Any], private: Mapping[str, Any]) -> Judge:
    reading = reading_of(agreement, private)
    command = judge_command(data, agreement["spec"], reading=reading, decision=asked(agreement))
    return Judge(command, answer_seconds=24 * 3600)


def _first_model(
    folders: Folders, agreement: dict[str, Any], seed: int, start: Start, judge: Judge
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    out = folders.opened / "genesis.safetensors"
    try:
        holdout = judge.start()["holdout"]
        answer = judge.ask({"genesis": {
            "out": str(out),
            "seed": seed,
            "plan": agreement["plan"],
            "epochs": start.epochs,
            "weights": str(start.weights) if start.weights else None,
            "policy": agreement["policy"],
        }})  # fmt: skip
    except JudgeError as error:
        raise AgentError(
            f"genesis failed: {error}", "the training plan or the data do not suit the architecture"
        ) from None
    finally:
        judge.stop()
    if "unfit" in answer:
        raise SettingsError(answer["unfit"])
    if start.weights:
        start.tell(answer["told"])
    model: dict[str, Any] = {"sha256": sha256_file(out), "size": out.stat().st_size}
    move_whole(out, folders.model(model["sha256"]))
    return model, answer, holdout

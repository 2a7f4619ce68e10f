"""A run's agents as processes: its agreement, data and seeds, put to the launcher of a federation on this machine.

Each agent computes with one thread, so that its sums are those of the memory engine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.definition.config import Prepared, Run
from fedssh.models.data.frame import COLUMN_NAMES
from fedssh.rules.policies import read_policy
from scripts.demo.federation import Federation, free_port
from scripts.demo.processes import interruptible, undisturbed

if TYPE_CHECKING:
    from fedssh.models.data.images import Images

TURN_SECONDS = 3600  # nobody dies here, and a site must not lose its turn because the machine is busy


@contextlib.contextmanager
def federation_in(folder: Path) -> Iterator[Federation]:
    """A federation below a folder, which is made here; afterwards it is over and only logs/ are left."""
    programs = Path(sys.executable).parent
    with interruptible(KeyboardInterrupt, (signal.SIGTERM, signal.SIGHUP)):
        try:
            with Federation(folder, free_port(), programs, environ={"CUDA_VISIBLE_DEVICES": "-1"}) as federation:
                yield federation
        finally:
            with undisturbed(KeyboardInterrupt):
                for path in folder.iterdir():
                    if path.name != "logs":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()


def set_up(federation: Federation, run: Run, prepared: Prepared) -> None:
    """Write the data, make the keys and the first model, and let the sites join."""
    rows = prepared.as_they_stand or prepared
    splits = {"train": rows.train, "val": rows.holdout, "test": rows.test}
    _save(federation.holdout, splits, prepared.columns)
    federation.command("charity", "init", f"--data={federation.holdout}", *_agreement(federation, run, prepared))
    for name in run.site_names:
        data = federation.site(name) / "data"
        data.mkdir(parents=True)
        _save(data / "site.npz", {"train": rows.parts[name]}, prepared.columns)
        if name in prepared.unlabelled and _learns_from_them(run):
            np.savez(data / "unlabelled.npz", images=prepared.unlabelled[name])
        federation.enrol(name)
    if read_policy(run.policy).masked:
        federation.name_peers(run.site_names)


def start(federation: Federation, run: Run) -> None:
    """Start everybody."""
    federation.serve(f"--turn-timeout={TURN_SECONDS}", "--judge-timeout=600")
    federation.open_door()
    for number, name in enumerate(run.site_names, 1):
        alice = (
            f"--seed={run.site_seed(number)}", f"--validation={run.validation}", "--threads=1", "--settle=30",
            "--no-tensorboard",
            "--min-batch-size=1", "--min-steps=1",  # an experiment may ask for it, and measures what comes of it
        )  # fmt: skip
        unlabelled = federation.site(name) / "data" / "unlabelled.npz"
        federation.start_site(name, (*alice, f"--unlabelled={unlabelled}") if unlabelled.exists() else alice)


def model(federation: Federation, sha256: str) -> Path:
    """The file of a model that was current once."""
    return federation.coordinator / "vault" / "models" / f"{sha256}.safetensors"


def _learns_from_them(run: Run) -> bool:
    """Whether sites learn from images without labels."""
    return "unlabelled" in run.plan or "decoder" in read_policy(run.policy).values


def _agreement(federation: Federation, run: Run, prepared: Prepared) -> list[str]:
    plan = {name: value for name, value in run.plan.items() if name not in ("loss", "metric")}
    words = {
        **plan, "name": run.experiment, "architecture": json.dumps(prepared.spec), "policy": run.policy,
        "gate": run.gate, "margin": run.margin, "metric": run.metric, "sessions": run.sessions, "seed": run.seed,
        "schedule": "relay" if run.schedule == "relay" else "free", "address": federation.address,
        "submissions_per_hour": 0, "invalid_per_hour": 0, "evidence": run.evidence,
    }  # fmt: skip
    if prepared.weights is not None:
        words["weights"] = prepared.weights
    if task := prepared.spec.get("task"):
        words["task"] = task
    if prepared.train is None:
        words["genesis_epochs"] = 0
    return [federation.state, *(f"--{name.replace('_', '-')}={value}" for name, value in words.items())]


def _save(path: Path, splits: dict[str, Images | None], columns: Sequence[str] | None) -> None:
    """Write images just as they are: float32, so that the agents train on what the memory engine trains on."""
    arrays: dict[str, np.ndarray] = {} if columns is None else {COLUMN_NAMES: np.array(columns, dtype=np.str_)}
    for split, content in splits.items():
        if content is None:
            continue
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = content.images, content.labels
        if content.patients is not None:
            arrays[f"{split}_patients"] = content.patients
    np.savez(path, allow_pickle=False, **arrays)

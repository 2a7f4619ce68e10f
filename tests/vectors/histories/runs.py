"""How the memory engine was run for each of its histories; see make.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedssh.rules.events import Record
from tests.unit.test_memory_engine import Adders, Halves, Opposed, judge_both, play

_SITES = {"alice-1": 100, "alice-2": 130, "alice-3": 70}
_SIX = {f"alice-{number}": 90 + 10 * number for number in range(1, 7)}
_PRIVACY = {"unit": "image", "clip": 1.0, "noise": 4.0, "delta": 1e-3, "budget": 0.3}
_RUNS: dict[str, dict[str, Any]] = {
    **{f"{name}-{schedule}": {"policy": name, "schedule": schedule} for name in ("best", "polyak", "merge")
       for schedule in ("free", "relay")},
    **{f"fedavg-{server}": {"policy": f"fedavg:server={server}"} for server in ("momentum", "adam", "yogi")},
    **{name: {"policy": policy} for name, policy in {
        "fedavg": "fedavg", "median": "median", "trimmed": "trimmed:1", "krum": "krum:0", "multi-krum": "multi-krum:0",
        "fraction": "fedavg:fraction=0.67"}.items()},
    "nan": {"policy": "fedavg:deadline=1", "attack": ("alice-3", "nan")},
    "nan-relay": {"schedule": "relay", "attack": ("alice-2", "nan")},
    "straggler": {"policy": "fedavg:deadline=0.15,minimum=0.5", "pace": {"alice-1": 10}, "sessions": 3},
    "sign-flip": {"policy": "trimmed:1", "attack": ("alice-2", "sign-flip:2"), "start": 0.4},
    "gate-off": {"policy": "fedavg", "gate": "off", "attack": ("alice-2", "sign-flip:2"), "start": 0.4},
    "ladder-free": {"gate": "ladder", "margin": 0.05, "attack": ("alice-2", "perturb:0.1"), "start": 0.4},
    "step": {"policy": "step", "trainers": Adders(_SITES, 2), "attack": ("alice-2", "sign-flip:2"), "start": 0.3},
    "gather": {"policy": "gather", "trainers": Opposed(_SITES), "by": judge_both, "sessions": 4},
    "split": {"policy": "split:dense1", "trainers": Halves(_SITES), "start": 0.4},
    "splitfed": {"policy": "splitfed:dense1", "trainers": Halves(_SITES), "start": 0.4, "gate": "off"},
    "masks": {"policy": "fedavg:server=momentum,seal=masks,cap=100"},
    "masks-private": {"policy": "fedavg:seal=masks,cap=100", "gate": "off", "privacy": _PRIVACY | {"rate": 0.25}},
    "masks-groups": {
        "sites": _SIX, "policy": "fedavg:seal=masks,groups=2,cap=200", "attack": ("alice-2", "sign-flip:2"),
        "start": 0.4},
    "fedasync": {"policy": "fedasync"},
    "fednova": {"policy": "fednova"},
    "parameter-free": {
        "gate": "parameter-free-ladder", "margin": 0.0, "policy": "merge:steps=2", "attack": ("alice-2", "perturb:0.1"),
        "start": 0.4},
    "parameter-free-rounds": {"policy": "fedavg", "gate": "parameter-free-ladder", "margin": 0.0, "sessions": 3},
    "private": {"policy": "fedavg", "gate": "off", "sessions": 6, "privacy": _PRIVACY},
    "private-rate": {"policy": "fedavg", "gate": "off", "privacy": _PRIVACY | {"unit": "patient", "rate": 0.125}},
    "ladder-rounds": {"policy": "fedavg", "gate": "ladder", "margin": 0.05, "submissions_per_hour": 9},
}  # fmt: skip
RUNS = {f"memory-{name}": settings for name, settings in _RUNS.items()}


def run(name: str, path: Path) -> list[Record]:
    """Run it, and write the history to a file. Done again it writes the same bytes."""
    settings: dict[str, Any] = {"start": 0.1, "sites": _SITES} | RUNS[name]
    return play(path, settings.pop("sites"), **settings).records

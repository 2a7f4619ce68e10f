"""A set that streams from disk against the same set in memory: peak memory, seconds of an epoch, and the same model.

    python tests/benchmarks/streaming.py [--images N] [--size S] [--spec JSON] [--json FILE]

Writes an .npz file of N images (40,000) of SxSx3 (64) random numbers, lays out a release as Bob would, and has `alice
train` train two epochs from it, as a process: with `--memory 1`, in memory; with `--memory 0`, from disk; and from disk
again, when the images are decoded already. Seconds are those of the second epoch, its scoring included. All in one
run: the machine may be slow or busy; look at the ratios. What is published at the end must be the same to the byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import models
from fedssh.alice import terms
from fedssh.alice.exchange import Exchange
from fedssh.keys import make_key
from fedssh.weights import write_weights
from tests.harness.releases import Coordinator

PLAN = {
    "batch_size": 64, "epochs": 2, "patience": 10, "optimizer": "sgd", "learning_rate": 0.01, "loss": "auto",
    "metric": "accuracy", "publish": "session",
}  # fmt: skip
FLOAT = 4


def write_images(path: Path, number: int, size: int) -> None:
    """Random numbers with a little of their class in them, a piece at a time."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, number)
    pixels = np.empty((number, size, size, 3), np.uint8)
    for begin in range(0, number, 1000):
        part = random.integers(0, 200, (len(labels[begin : begin + 1000]), size, size, 3))
        pixels[begin : begin + 1000] = part + 50 * labels[begin : begin + 1000, None, None, None]
    np.savez(path, train_images=pixels, train_labels=labels)


def run(folder: Path, data: Path, spec: dict[str, Any], share: int) -> dict[str, Any]:
    """One session; in a folder that has one, another Alice begins anew but for the decoded images."""
    key, exchange, state = (
        make_key(folder / secrets.token_hex(4), "coordinator"),
        Exchange(folder / "exchange"),
        folder / "alice",
    )
    exchange.tidy()
    state.mkdir(exist_ok=True)
    for old in (*state.glob("*.json"), *exchange.outgoing.iterdir(), *exchange.incoming.iterdir()):
        old.unlink()
    model = exchange.incoming / "00000007.safetensors"
    random = np.random.default_rng(1)
    drawn = {name: 0.05 * random.standard_normal(shape, np.float32) for name, shape in models.shapes(spec).items()}
    write_weights(model, drawn, spec)
    coordinator = Coordinator(key, spec, PLAN)
    terms.save_pin(state, terms.Pin(coordinator.hash))
    coordinator.lay_out(exchange.incoming, 7)
    command = [str(Path(sys.executable).with_name("alice")), "--log-format=json", "train", f"--data={data}",
               f"--exchange={folder / 'exchange'}", f"--state={state}", "--sessions=1", f"--memory={share}",
               "--settle=0", "--no-tensorboard"]  # fmt: skip
    begun = time.perf_counter()
    at: dict[str, float] = {}
    lines: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    for line in process.stdout:
        lines.append(line)
        told = json.loads(line) if line.startswith("{") else {}
        at.setdefault(f"{told.get('event')} {told.get('epoch', '')}".strip(), time.perf_counter() - begun)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("".join(lines))
    [published] = exchange.outgoing.glob("*.safetensors")
    peak = used.ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    return {
        "peak_mb": round(peak / 1e6), "loaded_seconds": round(at["session"], 1),
        "epoch_seconds": round(at["epoch 2"] - at["epoch 1"], 2),
        "sha256": hashlib.sha256(published.read_bytes()).hexdigest(),
    }  # fmt: skip


def main() -> int:
    """Measure; 1 where the two did not train the same model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40_000, metavar="N")
    parser.add_argument("--size", type=int, default=64, metavar="S")
    parser.add_argument("--spec", type=json.loads, default={"name": "cnn", "depth": 4}, metavar="JSON")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    spec = models.check_spec({**options.spec, "input": [options.size, options.size, 3], "classes": 2})
    found = {}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "site.npz"
        write_images(data, options.images, options.size)
        for kind, share in (("in memory", 1), ("from disk", 0), ("again", 0)):
            folder = Path(name) / ("memory" if share else "disk")
            folder.mkdir(exist_ok=True)
            found[kind] = run(folder, data, spec, share)
            print(f"{kind:<10} {found[kind]}", flush=True)
    whole = options.images * options.size**2 * 3 * FLOAT
    memory, again = found["in memory"], found["again"]
    ratio = again["epoch_seconds"] / memory["epoch_seconds"]
    set_of = f"{options.images:,} images of {options.size}x{options.size}x3, {whole / 1e6:,.0f} MB as float32"
    peaks = ", ".join(f"{one['peak_mb']:,} MB {kind}" for kind, one in found.items())
    print(f"{set_of}, {platform.machine()}, {os.cpu_count()} CPUs: peak {peaks}; an epoch takes {ratio:.2f} as long")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    same = len({one["sha256"] for one in found.values()}) == 1
    print("the models are the same to the byte" if same else "THE MODELS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

"""A coordinator to attack: the real vault, files and bundles; only the judge says the same of every model.

A demonstration runs itself once more in a child process whose `agents` are those of the checkout under attack, with
`attack`, and gets back the lines of JSON that the child printed until it ended or its time was up.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SITES = ("alice-1", "alice-2")
SPEC = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}


class Judge:
    """Finds every model a little worse than the first."""

    def score(self, model: Path) -> dict[str, Any]:
        return {"accuracy": 0.4, "loss": 0.6}

    def start(self) -> None: ...


class Victim:
    """A federation of two sites, begun in an empty folder; `weights` is how many numbers its model has."""

    def __init__(self, folder: Path, weights: int = 9) -> None:
        import numpy as np

        from fedssh.charity.folders import Folders
        from fedssh.charity.serve import Coordinator
        from fedssh.charity.vault import Vault
        from fedssh.files import sha256_file
        from fedssh.keys import make_key
        from fedssh.ledger import Ledger
        from fedssh.weights import architecture_hash, write_weights

        self.folders = Folders(folder / "coordinator")
        self.folders.make()
        self.model = folder / "model.safetensors"
        write_weights(self.model, {"w": np.random.default_rng(1).random(weights, np.float32)}, SPEC)
        blob: dict[str, Any] = {"sha256": sha256_file(self.model), "size": self.model.stat().st_size}
        self.folders.model(blob["sha256"]).write_bytes(self.model.read_bytes())
        self.keys = {name: make_key(folder / name, name) for name in SITES}
        coordinator = make_key(self.folders.key, "charity")
        self.architecture = architecture_hash(SPEC)
        ledger = Ledger.create(self.folders.ledger)
        ledger.append("genesis", {
            "federation": "attacked", "spec": SPEC, "architecture": self.architecture, "plan": {"metric": "accuracy"},
            "policy": "best", "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None, "model": blob,
            "metrics": {"accuracy": 0.5, "loss": 0.5}, "examples": 1, "epochs": 1, "seed": 0,
            "coordinator": coordinator.public.line, "holdout": {"sha256": "ab" * 32, "examples": 2},
        }, coordinator)  # fmt: skip
        for name, key in self.keys.items():
            ledger.append("site-added", {"site": name, "role": "site", "key": key.public.line}, coordinator)
        self.vault = Vault(self.folders)
        self.coordinator = Coordinator(self.vault, Judge())  # type: ignore[arg-type]
        self.coordinator.recover()
        self._arrivals = iter(range(10**18, 2 * 10**18))

    def arrive(self, site: str) -> Path:
        """Where the door would lay the next bundle of a site."""
        (self.folders.inbox / site).mkdir(exist_ok=True)
        return self.folders.inbox / site / f"{next(self._arrivals):020}-00000000.bundle"

    def submit(self, site: str, header: bytes | None = None) -> str:
        """Lay a submission into a site's inbox; returns its id. `header` goes before the stanzas of its age header."""
        from fedssh.bundle import pending, seal
        from fedssh.forms import canonical
        from fedssh.manifest import Submission, new_id, now
        from fedssh.rules.events import Local
        from fedssh.signature import SUBMISSION, sign

        manifest = Submission(
            id=new_id(), sender=site, recipients=[], model=pending(), sealed=pending(), architecture=self.architecture,
            builds_on=self.vault.state.release.sequence if self.vault.state.release else 0, session=1, epoch=1,
            examples=10, metrics=Local(0.1, 0.9), started=now(), created=now(),
        )  # fmt: skip
        path = self.arrive(site)
        manifest = seal(self.model, manifest, self.keys[site], [self.vault.key.public], path)
        if header is None:
            return manifest.id
        import hashlib

        with tarfile.open(path) as tar:
            members = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
        body = members["model.age"]
        start = body.index(b"-> ")
        body = body[:start] + header + body[start:]
        fields = json.loads(members["manifest.json"])
        fields["sealed"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
        message = canonical(fields)
        signature = sign(message, self.keys[site], SUBMISSION).encode()
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            names = ("manifest.json", "manifest.json.sig", "model.age")
            for name, content in zip(names, (message, signature, body), strict=True):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return manifest.id

    def serve(self, site: str, id: str) -> None:
        """Work as `charity serve` does until a submission has its verdict, or SIGTERM; prints when that was."""
        signal.signal(signal.SIGTERM, lambda *_: self.coordinator.stop.set())
        start = time.perf_counter()
        say(serving=True)

        def watch() -> None:
            while not self.folders.verdict(site, id).exists():
                time.sleep(0.002)
            say(judged=time.perf_counter() - start)
            self.coordinator.stop.set()

        threading.Thread(target=watch, daemon=True).start()
        while not self.coordinator.stop.is_set():
            try:
                self.coordinator.work()
            except OSError as error:  # as `charity serve` does
                say(trouble=str(error))
                self.coordinator.stop.wait(5)
            self.coordinator.stop.wait(0.05)


def say(**values: Any) -> None:
    """One line of JSON to whoever runs the attack."""
    print(json.dumps(values), flush=True)


def attack(
    script: str, tree: Path, folder: Path, words: list[str], limit: float
) -> tuple[dict[str, Any], float | None]:
    """Run a script again with the agents of another checkout, for so many seconds; then SIGTERM, then SIGKILL.

    Returns:
        All that the child said, and how long it took to end after SIGTERM; None when it had ended by itself.
    """
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), str(ROOT)))}
    command = [sys.executable, script, *words, "--in", str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=tree)
    killer = threading.Timer(limit + 10, child.kill)
    killer.start()
    said: dict[str, Any] = {}
    ended = None
    try:
        try:
            out, errors = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            start = time.perf_counter()
            child.terminate()
            out, errors = child.communicate()
            ended = time.perf_counter() - start
    finally:
        killer.cancel()
    for line in out.splitlines():
        said |= json.loads(line)
    if child.returncode > 0:
        said["error"] = errors.decode().strip().splitlines()[-1]
    said["killed"] = child.returncode == -signal.SIGKILL
    return said, ended

"""Make the vectors of format 1. Run once per format; the files are committed, their private keys are not kept.

PYTHONPATH=. python tests/vectors/make.py

coordinator_key.pub, alice-1.pub   the signers
model.safetensors                  a model file that loads
bad-*.safetensors                  model files that do not, see expected.json
submission.bundle, report.bundle   from alice-1, sealed for the coordinator
release.bundle                     from the coordinator, sealed for alice-1
bad-*.bundle                       bundles that do not verify as submissions of alice-1, see expected.json
ledger.jsonl                       a history of two records
expected.json                      what must come out of each
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import bundle, weights
from fedssh import manifest as m
from fedssh.files import write_whole
from fedssh.keys import make_key
from fedssh.ledger import Ledger
from fedssh.rules.events import Local

HERE = Path(__file__).resolve().parent
SPEC = {"classes": 2, "hidden": [2], "input": [2], "name": "mlp"}
TENSORS = {
    "dense_1/kernel": np.array([[0.5, -1.0], [2.0, 0.25]], "f4"),
    "dense_1/bias": np.array([0.0, 1e-7], "f4"),
    "output/kernel": np.array([[1.0], [3.0]], "f4"),
    "output/bias": np.array([-0.125], "f4"),
}
TIME = "2026-01-31T12:00:00.000Z"
BLOB = bundle.pending()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = {name: make_key(Path(folder, name), name) for name in ("coordinator_key", "alice-1")}
        for name in keys:
            shutil.copy(Path(folder, f"{name}.pub"), HERE / f"{name}.pub")
        alice, coordinator = keys["alice-1"], keys["coordinator_key"]
        model = HERE / "model.safetensors"
        header = weights.write_weights(model, TENSORS, SPEC)
        common: dict[str, Any] = {
            "builds_on": 2,
            "session": 1,
            "examples": 4,
            "metrics": Local(0.25, 0.75),
            "started": TIME,
            "created": TIME,
        }
        submission = m.Submission(
            id=m.new_id(),
            sender="alice-1",
            recipients=[],
            model=BLOB,
            sealed=BLOB,
            architecture=header.architecture,
            epoch=3,
            **common,
        )
        submission = bundle.seal(model, submission, alice, [coordinator.public], HERE / "submission.bundle")
        report = m.Report(id=m.new_id(), sender="alice-1", epochs=9, checkpoints=1, **common)
        bundle.seal_report(report, alice, HERE / "report.bundle")
        release = m.Release(
            id=m.new_id(),
            sender="charity",
            recipients=[],
            model=BLOB,
            sealed=BLOB,
            architecture=header.architecture,
            sequence=2,
            head="0" * 64,
            metrics={"accuracy": 0.5, "loss": 0.7},
            plan={"batch_size": 32},
            federation={"name": "vectors"},
            created=TIME,
        )
        release = bundle.seal(model, release, coordinator, [alice.public], HERE / "release.bundle")
        ledger = Ledger.create(Path(folder, "ledger.db"))
        ledger.append("genesis", {"federation": "vectors"}, coordinator)
        ledger.append("site-added", {"site": "alice-1", "role": "site", "key": alice.public.line}, coordinator)
        (HERE / "ledger.jsonl").write_bytes(b"".join(record.line() for record in ledger.records()))
        head = ledger.head()
        assert head is not None
        expected = {
            "submission.bundle": json.loads(submission.to_bytes()),
            "report.bundle": json.loads(report.to_bytes()),
            "release.bundle": json.loads(release.to_bytes()),
            "ledger.jsonl": {"records": 2, "head": head.hash},
            "model.safetensors": {
                "spec": SPEC,
                "architecture": header.architecture,
                "tensors": {name: array.tolist() for name, array in TENSORS.items()},
            },
            **_bad_models(model.read_bytes()),
            **_bad_bundles((HERE / "submission.bundle").read_bytes()),
        }
        write_whole(HERE / "expected.json", json.dumps(expected, indent=2, sort_keys=True).encode() + b"\n", mode=0o644)


def _bad_models(good: bytes) -> dict[str, str]:
    length = int.from_bytes(good[:8], "little")
    cases = {
        "bad-truncated.safetensors": (good[:-1], "holds 35 bytes of tensors"),
        "bad-length.safetensors": (
            (2**62).to_bytes(8, "little") + good[8:],
            "header claims 4,611,686,018,427,387,904 bytes",
        ),
        "bad-dtype.safetensors": (good.replace(b'"F32"', b'"F16"', 1), "is 'F16', expected F32"),
        "bad-pickle.safetensors": (b"\x80\x04\x95" + good[3:], "header claims"),
        "bad-format.safetensors": (good.replace(b"fedssh 1", b"fedssh 7", 1), "has format 'fedssh 7'"),
    }
    assert length < len(good)
    return _written(cases)


def _bad_bundles(good: bytes) -> dict[str, str]:
    cases = {
        "bad-truncated.bundle": (good[:-2000], "is truncated: model.age ends at"),
        "bad-manifest.bundle": (good.replace(b'"epoch":3', b'"epoch":4', 1), "does not match the signed bytes"),
        "bad-sealed.bundle": (good[:-1600] + bytes([good[-1600] ^ 1]) + good[-1599:], "does not have the hash"),
        "bad-name.bundle": (_renamed(good, b"manifest.json", b"../../etc/evil"), "has the member '../../etc/evil'"),
    }
    return _written(cases)


def _renamed(good: bytes, old: bytes, new: bytes) -> bytes:
    block = bytearray(good[:512])
    block[:100] = new.ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert good.startswith(old)
    return bytes(block) + good[512:]


def _written(cases: dict[str, tuple[bytes, str]]) -> dict[str, str]:
    for name, (content, _) in cases.items():
        (HERE / name).write_bytes(content)
    return {name: reason for name, (_, reason) in cases.items()}


if __name__ == "__main__":
    main()

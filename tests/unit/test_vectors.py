"""Files of format 1 as they were made once must be read, or refused, the same way for ever."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import bundle, ledger, weights
from fedssh import manifest as m
from fedssh.errors import UntrustedError
from fedssh.keys import PrivateKey, load_public
from fedssh.signature import RELEASE, SUBMISSION, verify

HERE = Path(__file__).resolve().parents[1] / "vectors"
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_bytes())


def test_the_model_file_loads() -> None:
    expected = EXPECTED["model.safetensors"]
    header = weights.read_header(HERE / "model.safetensors")
    assert (header.spec, header.architecture) == (expected["spec"], expected["architecture"])
    loaded = weights.read_weights(HERE / "model.safetensors", header.tensors)
    assert loaded.keys() == expected["tensors"].keys()
    for name, values in expected["tensors"].items():
        assert np.array_equal(loaded[name], np.array(values, "f4"))


@pytest.mark.parametrize(
    ("name", "kind", "namespace", "signer"),
    [
        ("submission.bundle", m.Submission, SUBMISSION, "alice-1"),
        ("release.bundle", m.Release, RELEASE, "coordinator_key"),
    ],
)
def test_a_bundle_verifies(name: str, kind: type[m.Submission], namespace: str, signer: str) -> None:
    with bundle.read(HERE / name) as arrived:
        message = arrived.message
    content = (HERE / name).read_bytes()
    begin, end = content.index(b"-----BEGIN SSH"), content.index(b"-----END SSH SIGNATURE-----")
    verify(
        message,
        content[begin:end].decode() + "-----END SSH SIGNATURE-----\n",
        namespace,
        load_public(HERE / f"{signer}.pub"),
    )
    assert json.loads(kind.from_bytes(message).to_bytes()) == EXPECTED[name]
    start, sealed = content.index(b"age-encryption.org/v1\n"), EXPECTED[name]["sealed"]
    assert hashlib.sha256(content[start : start + sealed["size"]]).hexdigest() == sealed["sha256"]


def test_a_report_verifies() -> None:
    with bundle.read(HERE / "report.bundle") as arrived:
        report = arrived.verify(load_public(HERE / "alice-1.pub"), m.Report)
    assert json.loads(report.to_bytes()) == EXPECTED["report.bundle"]


def test_the_history_verifies() -> None:
    records = list(ledger.read_export((HERE / "ledger.jsonl").read_bytes().splitlines(keepends=True)))
    count = ledger.verify(records, load_public(HERE / "coordinator_key.pub"))
    assert {"records": count, "head": records[-1].hash} == EXPECTED["ledger.jsonl"]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("bad-")])
def test_a_bad_file_is_refused_for_its_reason(name: str, tmp_path: Path, keys: dict[str, PrivateKey]) -> None:

    def read() -> None:
        if name.endswith(".bundle"):
            signer = load_public(HERE / "alice-1.pub")
            bundle.open_bundle(HERE / name, tmp_path / "plain", m.Submission, signer, keys["coordinator"])
        else:
            weights.read_header(HERE / name)

    with pytest.raises(UntrustedError) as error:
        read()
    assert EXPECTED[name] in str(error.value)
    assert not list(tmp_path.iterdir())

"""Bundles: what seals opens, stock tools open it too, and nothing else does."""

import dataclasses
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedssh import bundle, signature, weights
from fedssh import manifest as m
from fedssh.errors import AgentError, BundleError, SignatureError, UntrustedError, WeightsError
from fedssh.forms import canonical, parse
from fedssh.keys import PrivateKey
from fedssh.rules.events import Local

SPEC = {"name": "mlp", "input": [2], "classes": 2}
Keys = dict[str, PrivateKey]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights.write_weights(tmp_path / "model.safetensors", {"a": np.arange(5000, dtype="f4")}, SPEC)
    return tmp_path / "model.safetensors"


def submission() -> m.Submission:
    return m.Submission(
        id=m.new_id(), sender="alice-1", recipients=[], model=bundle.pending(), sealed=bundle.pending(),
        architecture=weights.architecture_hash(SPEC), builds_on=1, session=1, epoch=4, examples=1400,
        metrics=Local(0.2, 0.9), started=m.now(), created=m.now(),
    )  # fmt: skip


@pytest.fixture
def sealed(model: Path, keys: Keys) -> Path:
    path = model.with_name("x.bundle")
    bundle.seal(model, submission(), keys["alice-1"], [keys["coordinator"].public], path)
    return path


def open_it(path: Path, keys: Keys, max_bytes: int = 10**6) -> m.Submission:
    signer, key = keys["alice-1"].public, keys["coordinator"]
    return bundle.open_bundle(path, path.with_name("plain"), m.Submission, signer, key, max_bytes)


def refuse(path: Path, keys: Keys, kind: type[AgentError], reason: str, max_bytes: int = 10**6) -> None:
    """Opening fails with this error, and nothing is left behind."""
    before = sorted(os.listdir(path.parent))
    with pytest.raises(kind) as error:
        open_it(path, keys, max_bytes)
    assert reason in str(error.value)
    assert sorted(os.listdir(path.parent)) == before


def test_what_is_sealed_opens(model: Path, sealed: Path, keys: Keys) -> None:
    opened = open_it(sealed, keys)
    assert model.with_name("plain").read_bytes() == model.read_bytes()
    assert (opened.model.size, opened.recipients) == (model.stat().st_size, [keys["coordinator"].public.fingerprint])
    assert sorted(os.listdir(model.parent)) == ["model.safetensors", "plain", "x.bundle"]


def test_every_recipient_opens_a_release_and_nobody_else(model: Path, keys: Keys) -> None:
    release = m.Release(
        id=m.new_id(), sender="charity", recipients=[], model=bundle.pending(), sealed=bundle.pending(),
        architecture=weights.architecture_hash(SPEC), sequence=3, head="0" * 64, metrics={}, plan={}, federation={},
        created=m.now(),
    )  # fmt: skip
    path = model.with_name("r.bundle")
    bundle.seal(model, release, keys["coordinator"], [keys["alice-1"].public, keys["alice-2"].public], path)
    for name in ("alice-1", "alice-2"):
        bundle.open_bundle(path, path.with_name(name), m.Release, keys["coordinator"].public, keys[name])
        assert path.with_name(name).read_bytes() == model.read_bytes()
    with pytest.raises(BundleError, match="not for SHA256:"):
        bundle.open_bundle(path, path.with_name("s"), m.Release, keys["coordinator"].public, keys["stranger"])


@pytest.mark.skipif(
    not (shutil.which("age") and shutil.which("ssh-keygen")), reason="age or ssh-keygen is not installed"
)
def test_the_three_shell_lines_open_it(model: Path, sealed: Path, keys: Keys) -> None:
    folder = model.parent / "hand"
    folder.mkdir()
    (folder / "allowed_signers").write_text(signature.allowed_signers({"alice-1": keys["alice-1"].public}))
    script = f"""set -e
        tar xf {sealed}
        ssh-keygen -Y verify -f allowed_signers -I alice-1 -n submission@fedssh -s manifest.json.sig < manifest.json
        age -d -i {keys["coordinator"].path} model.age > model.safetensors
        cmp model.safetensors {model}"""
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('Good "submission@fedssh" signature for alice-1 with RSA key SHA256:')


def test_a_report_is_signed_and_has_no_model(tmp_path: Path, sealed: Path, keys: Keys) -> None:
    report = m.Report(
        id=m.new_id(), sender="alice-1", builds_on=1, session=1, epochs=9, checkpoints=2, examples=10, metrics=None,
        started=m.now(), created=m.now(),
    )  # fmt: skip
    path = tmp_path / "report.bundle"
    bundle.seal_report(report, keys["alice-1"], path)
    with bundle.read(path) as arrived:
        assert arrived.verify(keys["alice-1"].public, m.Report) == report
        assert (arrived.kind, arrived.id, arrived.model_sha256) == ("report", report.id, None)
        with pytest.raises(SignatureError):
            arrived.verify(keys["alice-2"].public, m.Report)
    with bundle.read(sealed) as arrived, pytest.raises(BundleError, match="travels without a model"):
        arrived.verify(keys["alice-1"].public, m.Report)
    refuse(path, keys, BundleError, "a submission has three members, this bundle has two")


def rebuilt(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> Path:
    """The bundle with its members changed."""
    with tarfile.open(path) as tar:
        members = [(entry, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for entry, content in members:
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_a_bundle_packed_by_stock_tar_opens(sealed: Path, keys: Keys) -> None:
    folder = sealed.parent / "hand"
    folder.mkdir()
    pack = f"tar xf {sealed} && tar cf {sealed} --format=ustar manifest.json manifest.json.sig model.age"
    subprocess.run(["sh", "-c", pack], cwd=folder, check=True)
    open_it(sealed, keys)


def _link(entry: tarfile.TarInfo, kind: bytes) -> None:
    entry.type, entry.linkname = kind, "/etc/passwd"


Members = list[tuple[tarfile.TarInfo, bytes]]
TARS: dict[str, tuple[Callable[[Members], object], str]] = {
    "another name": (lambda ms: setattr(ms[2][0], "name", "model.h5"), "has the member 'model.h5'"),
    "a path": (lambda ms: setattr(ms[0][0], "name", "../manifest.json"), "has the member '../manifest.json'"),
    "an absolute path": (lambda ms: setattr(ms[2][0], "name", "/etc/cron.d/x"), "has the member '/etc/cron.d/x'"),
    "a symbolic link": (lambda ms: _link(ms[2][0], tarfile.SYMTYPE), "of type b'2'"),
    "a hard link": (lambda ms: _link(ms[1][0], tarfile.LNKTYPE), "of type b'1'"),
    "a device": (lambda ms: setattr(ms[2][0], "type", tarfile.CHRTYPE), "of type b'3'"),
    "a folder": (lambda ms: setattr(ms[0][0], "type", tarfile.DIRTYPE), "of type b'5'"),
    "another order": (lambda ms: ms.reverse(), "has the member 'model.age'"),
    "one too many": (lambda ms: ms.append(ms[0]), "does not end after its last member"),
    "one too few": (lambda ms: ms.pop(0), "has the member 'manifest.json.sig'"),
    "the same twice": (
        lambda ms: ms.insert(0, ms[0]),
        "has the member 'manifest.json' of type b'0', expected the file m",
    ),
    "a long name": (lambda ms: setattr(ms[0][0], "name", "a" * 99), "has the member 'aaaa"),
    "an empty manifest": (lambda ms: ms.__setitem__(0, (ms[0][0], b"")), "manifest.json claims 0 bytes"),
    "a huge manifest": (lambda ms: ms.__setitem__(0, (ms[0][0], b"x" * 70000)), "manifest.json claims 70,000 bytes"),
    "a huge signature": (lambda ms: ms.__setitem__(1, (ms[1][0], b"x" * 9000)), "manifest.json.sig claims 9,000 bytes"),
}


@pytest.mark.parametrize("name", TARS)
def test_a_tar_of_another_form_is_refused(name: str, sealed: Path, keys: Keys) -> None:
    change, reason = TARS[name]
    refuse(rebuilt(sealed, change), keys, BundleError, reason)


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80" + b"\x00" * 3 + b"\x7f" * 8]
)
def test_absurd_sizes_in_tar_headers_are_refused(size: bytes, sealed: Path, keys: Keys) -> None:
    block = bytearray(sealed.read_bytes())
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    sealed.write_bytes(block)
    refuse(sealed, keys, BundleError, "manifest.json")


def resign(
    path: Path,
    keys: Keys,
    change: Callable[[bytes], bytes],
    signer: str = "alice-1",
    namespace: str = signature.SUBMISSION,
) -> Path:
    """The bundle with its manifest changed and signed again."""

    def again(members: Members) -> None:
        message = change(members[0][1])
        members[0] = (members[0][0], message)
        members[1] = (members[1][0], signature.sign(message, keys[signer], namespace).encode())

    return rebuilt(path, again)


def edit(**changes: object) -> Callable[[bytes], bytes]:
    return lambda message: canonical(parse(message) | changes)


def test_unsigned_or_wrongly_signed_is_a_signature_error(sealed: Path, keys: Keys) -> None:
    original = sealed.read_bytes()
    refuse(
        rebuilt(sealed, lambda ms: ms.__setitem__(1, (ms[1][0], b"\n"))), keys, SignatureError, "there is no signature"
    )
    sealed.write_bytes(original)
    refuse(resign(sealed, keys, edit(), signer="alice-2"), keys, SignatureError, "signed by key SHA256:")
    sealed.write_bytes(original)
    refuse(
        resign(sealed, keys, edit(), namespace=signature.RELEASE), keys, SignatureError, "signed for 'release@fedssh'"
    )
    sealed.write_bytes(original)
    changed = rebuilt(sealed, lambda ms: ms.__setitem__(0, (ms[0][0], edit(epoch=5)(ms[0][1]))))
    refuse(changed, keys, SignatureError, "does not match the signed bytes")


SIGNED: dict[str, tuple[dict[str, object] | Callable[[bytes], bytes], str]] = {
    "not canonical": (lambda message: message + b"\n", "not canonical JSON"),
    "another kind": ({"kind": "release"}, "is of kind 'release'"),
    "another format": ({"format": 2}, "has format 2"),
    "a field too many": ({"extra": 1}, "unknown field 'extra'"),
    "other sealed bytes": ({"sealed": {"sha256": "0" * 64, "size": 20744}}, "does not have the hash"),
    "another sealed size": ({"sealed": {"sha256": "0" * 64, "size": 5}}, "the manifest says 5"),
    "other plain bytes": (
        {"model": {"sha256": "0" * 64, "size": 20100}},
        "the model file does not have the hash and size",
    ),
    "far fewer plain bytes": ({"model": {"sha256": "0" * 64, "size": 5}}, "too many for a plain one of its size"),
    "a second recipient": (
        {"recipients": ["SHA256:" + "B" * 43, "SHA256:" + "C" * 43]},
        "sealed for the coordinator alone, this one for 2",
    ),
    "a plain model larger than the sealed": ({"model": {"sha256": "0" * 64, "size": 99999}}, "cannot be larger"),
    "an oversized model": ({"model": {"sha256": "0" * 64, "size": 2**40}}, "expected at most 1,000,000"),
    "another recipient": ({"recipients": ["SHA256:" + "B" * 43]}, "sealed for SHA256:BBB"),
    "another architecture": ({"architecture": "0" * 64}, "another architecture than the manifest says"),
}


@pytest.mark.parametrize("name", SIGNED)
def test_a_signed_lie_is_refused(name: str, sealed: Path, keys: Keys) -> None:
    change, reason = SIGNED[name]
    if name == "other sealed bytes":
        with bundle.read(sealed) as arrived:
            size = arrived.said["sealed"]["size"]
        change = {"sealed": {"sha256": "0" * 64, "size": size}}
    refuse(resign(sealed, keys, change if callable(change) else edit(**change)), keys, BundleError, reason)


def test_sealed_for_someone_else_but_claiming_to_be_for_us(model: Path, keys: Keys) -> None:
    path = model.with_name("x.bundle")
    bundle.seal(model, submission(), keys["alice-1"], [keys["stranger"].public], path)
    resign(path, keys, edit(recipients=[keys["coordinator"].public.fingerprint]))
    refuse(path, keys, BundleError, "model.age cannot be opened with SHA256:")


def test_what_was_sealed_is_no_model(model: Path, keys: Keys) -> None:
    path = model.with_name("x.bundle")
    model.write_bytes(b"\x80\x04\x95 this is a pickle")
    bundle.seal(model, submission(), keys["alice-1"], [keys["coordinator"].public], path)
    refuse(path, keys, WeightsError, "the model file's header claims")


def test_a_model_over_the_limit_is_refused_before_it_is_opened(sealed: Path, keys: Keys) -> None:
    refuse(sealed, keys, BundleError, "expected at most 1,000", max_bytes=1000)


def test_no_bit_of_a_header_or_of_the_signature_is_free(sealed: Path, keys: Keys) -> None:
    content = sealed.read_bytes()
    start = content.index(b"-----BEGIN SSH"), content.index(b"-----END SSH") + len("-----END SSH SIGNATURE-----\n")
    age = content.index(b"age-encryption.org/v1\n")
    broken = sealed.with_name("broken.bundle")
    broken.write_bytes(content)
    unnoticed = []
    with open(broken, "r+b", buffering=0) as file:
        for position in (*range(512), *range(start[0] - 512, start[1]), *range(age - 512, age)):
            for bit in range(8):
                file.seek(position)
                file.write(bytes([content[position] ^ 1 << bit]))
                try:
                    open_it(broken, keys)
                except (BundleError, SignatureError):
                    continue
                unnoticed.append((position, bit))
            file.seek(position)
            file.write(content[position : position + 1])
    assert not unnoticed


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_and_no_cut_goes_unnoticed(sealed: Path, keys: Keys, data: st.DataObject) -> None:
    """Every byte is covered by the signature, a hash, a checksum or a rule."""
    content = sealed.read_bytes()
    damaged = bytearray(content)
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(content) - 1))]
    else:
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    broken = sealed.with_name("broken.bundle")
    broken.write_bytes(damaged)
    with pytest.raises((BundleError, SignatureError, WeightsError)):
        open_it(broken, keys)
    assert not sealed.with_name("plain").exists()


def test_a_full_disk_leaves_nothing_behind(model: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(target: int, source: int, offset: int | None, count: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.seal(model, submission(), keys["alice-1"], [keys["coordinator"].public], model.with_name("x.bundle"))
    assert os.listdir(model.parent) == ["model.safetensors"]


def test_a_bundle_needs_a_recipient_and_a_model(model: Path, keys: Keys) -> None:
    with pytest.raises(ValueError, match="at least one recipient"):
        bundle.seal(model, submission(), keys["alice-1"], [], model.with_name("x.bundle"))
    with pytest.raises(FileNotFoundError):
        bundle.seal(
            model.with_name("gone"), submission(), keys["alice-1"], [keys["coordinator"].public], model.with_name("x")
        )
    assert dataclasses.is_dataclass(submission())


class Touched(io.FileIO):
    """An open model file that somebody changes when it is read for the first time."""

    def __init__(self, path: Path, change: Callable[[], object]) -> None:
        super().__init__(path)
        self.change = change

    def read(self, size: int | None = -1) -> bytes:
        self.change()
        self.change = lambda: None
        return super().read(-1 if size is None else size)


def test_an_open_file_is_sealed_whatever_its_name_leads_to_now(model: Path, keys: Keys) -> None:
    content = model.read_bytes()
    signed = keys["alice-1"], [keys["coordinator"].public]

    def swap() -> None:
        model.unlink()
        model.symlink_to(keys["alice-1"].path)

    with Touched(model, swap) as file:
        file.read(9)  # wherever it stands
        bundle.seal(file, submission(), *signed, model.with_name("x.bundle"))
    open_it(model.with_name("x.bundle"), keys)
    assert model.with_name("plain").read_bytes() == content


def test_a_model_that_changes_its_size_under_the_sealing_hand(model: Path, keys: Keys) -> None:
    content = model.read_bytes()
    signed = keys["alice-1"], [keys["coordinator"].public]

    def grow() -> None:
        with model.open("ab") as file:
            file.write(b"more" * 100_000)

    with Touched(model, grow) as file:
        bundle.seal(file, submission(), *signed, model.with_name("x.bundle"))
    open_it(model.with_name("x.bundle"), keys)
    assert model.with_name("plain").read_bytes() == content
    before = sorted(os.listdir(model.parent))
    with Touched(model, lambda: os.truncate(model, 100)) as file, pytest.raises(BundleError, match="became shorter"):
        bundle.seal(file, submission(), *signed, model.with_name("y.bundle"))
    assert sorted(os.listdir(model.parent)) == before


def test_the_signature_can_be_kept_beside_the_manifest(sealed: Path, keys: Keys) -> None:
    manifest = open_it(sealed, keys)
    with bundle.read(sealed) as arrived:
        signature.verify(manifest.to_bytes(), arrived.signature, signature.SUBMISSION, keys["alice-1"].public)


def test_what_arrived_says_who_it_is_before_it_is_believed(sealed: Path, keys: Keys) -> None:
    content = sealed.read_bytes()
    with bundle.read(sealed) as arrived:
        manifest = arrived.verify(keys["alice-1"].public, m.Submission, m.Report)
        assert (arrived.kind, arrived.id, arrived.subject) == ("submission", manifest.id, manifest.id)
        assert isinstance(manifest, m.Submission) and arrived.model_sha256 == manifest.model.sha256
        assert arrived.said == parse(manifest.to_bytes()) and arrived.message == manifest.to_bytes()
        assert (arrived.size, arrived.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        with pytest.raises(SignatureError):
            arrived.verify(keys["stranger"].public, m.Submission, m.Report)
        with pytest.raises(ValueError, match="only a verified manifest"):
            arrived.extract(sealed.with_name("plain"), keys["coordinator"])


@pytest.mark.parametrize("id", [7, None, "../../x", "0" * 36, ["a"]])
def test_an_id_that_is_none_is_not_taken_for_one(id: object, sealed: Path, keys: Keys) -> None:
    with bundle.read(resign(sealed, keys, edit(id=id, kind={"id": id}))) as arrived:
        assert arrived.kind is None and arrived.id is None
        assert arrived.subject == f"bundle {hashlib.sha256(sealed.read_bytes()).hexdigest()}"
        with pytest.raises(BundleError, match="is of kind a NoneType, expected 'submission' or 'report'"):
            arrived.verify(keys["alice-1"].public, m.Submission, m.Report)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 10240])
def test_of_garbage_its_hash_is_judged(content: bytes, tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "x.bundle").write_bytes(content)
    with bundle.read(tmp_path / "x.bundle") as arrived:
        assert arrived.kind is None and arrived.id is None
        assert arrived.subject == f"bundle {hashlib.sha256(content).hexdigest()}"
        with pytest.raises(BundleError, match="not a tar of its members"):
            arrived.verify(keys["alice-1"].public, m.Submission, m.Report)


@pytest.mark.parametrize("kind", ["a link", "a FIFO", "a folder"])
def test_only_a_plain_file_is_opened(kind: str, sealed: Path) -> None:
    path = sealed.with_name("other.bundle")
    lay: dict[str, Callable[[], object]] = {
        "a link": lambda: path.symlink_to(sealed),
        "a FIFO": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
    }
    lay[kind]()
    with pytest.raises(UntrustedError, match=f"is not a file that can be read: it is {kind}"), bundle.read(path):
        pass


def test_the_manifest_that_was_verified_is_the_one_whose_hashes_count(model: Path, sealed: Path, keys: Keys) -> None:
    """Whoever still has the file open puts other signed bytes of the same length into it, after the check."""
    other = sealed.with_name("other.bundle")
    weights.write_weights(model, {"a": np.ones(5000, dtype="f4")}, SPEC)
    with bundle.read(sealed) as arrived:
        first = arrived.verify(keys["alice-1"].public, m.Submission)
        again = dataclasses.replace(first, epoch=5)
        bundle.seal(model, again, keys["alice-1"], [keys["coordinator"].public], other)
        plain = sealed.with_name("plain")
        before, after = sealed.read_bytes(), other.read_bytes()
        assert len(before) == len(after)
        sealed.write_bytes(after)
        with pytest.raises(BundleError, match=r"model\.age does not have the hash its manifest says"):
            arrived.extract(plain, keys["coordinator"])
        start = before.index(b"age-encryption.org/v1\n")
        sealed.write_bytes(after[:start] + before[start:])
        with pytest.raises(BundleError, match="the bundle changed while it was read"):
            arrived.extract(plain, keys["coordinator"])
        sealed.write_bytes(before)
        assert not plain.exists()
        arrived.extract(plain, keys["coordinator"])
        assert plain.exists()


def test_nothing_is_extracted_that_was_not_verified(sealed: Path, keys: Keys) -> None:
    with bundle.read(sealed) as arrived, pytest.raises(ValueError, match="only a verified manifest"):
        arrived.extract(sealed.with_name("plain"), keys["coordinator"])
    assert not sealed.with_name("plain").exists()

"""Keys and signatures: what ssh-keygen makes we check, what we make ssh-keygen checks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fedssh import keys, signature
from fedssh.errors import SettingsError, SignatureError

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.PrivateKey:
    return keys.make_key(tmp_path_factory.mktemp("keys") / "site_key", "alice-1")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> keys.PrivateKey:
    return keys.make_key(tmp_path_factory.mktemp("keys") / "site_key", "alice-2")


def test_a_key_is_private_and_never_overwritten(key: keys.PrivateKey) -> None:
    assert key.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsError, match="keys are never overwritten"):
        keys.make_key(key.path, "again")
    assert keys.load_private(key.path).public == key.public == keys.load_public(key.path.with_suffix(".pub"))


@needs_ssh_keygen
def test_the_fingerprint_is_that_of_ssh_keygen(key: keys.PrivateKey) -> None:
    listed = subprocess.run(["ssh-keygen", "-lf", f"{key.path}.pub"], capture_output=True, text=True, check=True)
    assert listed.stdout.split()[:2] == ["3072", key.public.fingerprint]


@needs_ssh_keygen
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t", "rsa", "-b", "2048"], "has 2048 bits, expected 3072 or 4096"),
        (["-t", "ed25519"], "is not an RSA key"),
        (["-t", "rsa", "-b", "3072", "-N", "secret"], "without passphrase"),
    ],
)
def test_other_private_keys_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    passphrase = [] if "-N" in arguments else ["-N", ""]
    subprocess.run(["ssh-keygen", "-q", "-f", tmp_path / "k", *arguments, *passphrase], check=True)
    with pytest.raises(SettingsError, match=message):
        keys.load_private(tmp_path / "k")


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = keys.make_key(tmp_path / "k", "x").path
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by others") as error:
        keys.load_private(path)
    assert error.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "text", ["", "ssh-rsa", "ssh-rsa !!!", "ssh-dss AAAA", "ssh-rsa AAAA\nssh-rsa AAAA", "ssh-rsa AAAA"]
)
def test_malformed_public_keys_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        keys.parse_public(text)


@needs_ssh_keygen
def test_ssh_keygen_verifies_what_we_sign(key: keys.PrivateKey, tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(signature.allowed_signers({"alice-1": key.public}))
    (tmp_path / "sig").write_text(signature.sign(b"message", key, signature.SUBMISSION))
    command = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "alice-1", "-n", signature.SUBMISSION, "-s", "sig"]
    good = subprocess.run(command, input=b"message", cwd=tmp_path, capture_output=True, check=False)
    bad = subprocess.run(command, input=b"massage", cwd=tmp_path, capture_output=True, check=False)
    assert (good.returncode, bad.returncode) == (0, 255), good.stderr + bad.stderr


@needs_ssh_keygen
def test_we_verify_what_ssh_keygen_signs(key: keys.PrivateKey, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"message")
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", key.path, "-n", signature.REPORT, tmp_path / "m"], check=True
    )
    signature.verify(b"message", (tmp_path / "m.sig").read_text(), signature.REPORT, key.public)


def test_what_does_not_verify_says_why(key: keys.PrivateKey, other: keys.PrivateKey) -> None:
    good = signature.sign(b"message", key, signature.SUBMISSION)
    signature.verify(b"message", good, signature.SUBMISSION, key.public)
    lines = good.splitlines()
    cases = {
        "does not match the signed bytes": (b"massage", good, signature.SUBMISSION, key),
        f"expected {other.public.fingerprint}": (b"message", good, signature.SUBMISSION, other),
        "signed for 'submission@fedssh', expected 'release@fedssh'": (b"message", good, signature.RELEASE, key),
        "there is no signature": (b"message", "", signature.SUBMISSION, key),
        "not armored": (b"message", "hello\nyou\nthere", signature.SUBMISSION, key),
        "not base64": (b"message", "\n".join([lines[0], "?" * 70, lines[-1]]), signature.SUBMISSION, key),
        "truncated": (b"message", "\n".join([*lines[:3], lines[-1], ""]), signature.SUBMISSION, key),
        "expected at most 8192": (b"message", good + "A" * 9000, signature.SUBMISSION, key),
    }
    for reason, (message, armored, namespace, signer) in cases.items():
        with pytest.raises(SignatureError) as error:
            signature.verify(message, armored, namespace, signer.public)
        assert reason in str(error.value)


def test_allowed_signers_round_trip(key: keys.PrivateKey, other: keys.PrivateKey) -> None:
    signers = {"alice-1": key.public, "alice-2": other.public}
    assert signature.read_allowed_signers(signature.allowed_signers(signers)) == signers
    with pytest.raises(SettingsError, match="names alice-1 again"):
        signature.read_allowed_signers(signature.allowed_signers({"alice-1": key.public}) * 2)

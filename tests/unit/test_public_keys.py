"""Public keys: only what every part can use is read, and what is read can be used by every part."""

import base64
import shutil
import subprocess
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fedssh.bundle import check_recipient
from fedssh.errors import SettingsError
from fedssh.keys import PrivateKey, login_line, parse_public

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti"


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def mpint(number: int, zeros: int = 0) -> bytes:
    return string(bytes(zeros) + number.to_bytes(number.bit_length() // 8 + 1, "big"))


def bare(number: int) -> bytes:
    """Without the leading zero that says that it is positive."""
    return string(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def line(*parts: bytes, kind: str = "ssh-rsa") -> str:
    return f"{kind} {base64.b64encode(b''.join(parts)).decode()}"


@pytest.fixture(scope="session")
def modulus(keys: dict[str, PrivateKey]) -> int:
    return keys["alice-1"].public.rsa.public_numbers().n


R, E = string(b"ssh-rsa"), mpint(65537)


def malformed(n: int) -> dict[str, str]:
    good = line(R, E, mpint(n))
    word = good.split()[1]
    return {
        "an even modulus": line(R, E, mpint(n + 1)),
        "a modulus that 3 divides": line(R, E, mpint(next(m for m in (n, n + 2, n + 4) if m % 3 == 0))),
        "a modulus that is a square": line(R, E, mpint((2**1536 - 463) ** 2)),
        "an exponent of 2^34 + 1": line(R, mpint(2**34 + 1), mpint(n)),
        "an exponent of 65 bits": line(R, mpint(2**64 + 1), mpint(n)),
        "an even exponent": line(R, mpint(65536), mpint(n)),
        "an exponent of 1": line(R, mpint(1), mpint(n)),
        "an exponent of 0": line(R, string(b""), mpint(n)),
        "an exponent as large as the modulus": line(R, mpint(n), mpint(n)),
        "a negative modulus": line(R, E, bare(n)),
        "a negative exponent": line(R, string(b"\x81\x00\x01"), mpint(n)),
        "zeros before the modulus": line(R, E, mpint(n, zeros=1)),
        "zeros before the exponent": line(R, mpint(65537, zeros=2), mpint(n)),
        "bytes after the modulus": line(R, E, mpint(n), b"\0"),
        "a fourth number": line(R, E, mpint(n), mpint(3)),
        "a modulus that is cut": line(R, E, mpint(n)[:-1]),
        "3071 bits": line(R, E, mpint(n >> 1 | 1)),
        "16384 bits": line(R, E, mpint(n << 13312 | 1)),
        "another type inside": line(string(b"ssh-dss"), E, mpint(n)),
        "no type inside": line(b""),
        "base64 with a bit too many": f"ssh-rsa {base64.b64encode(R).decode()[:-2]}x=",
        "base64 without its end": good[:-2],
        "base64 with a line break": f"ssh-rsa {word[:70]}\n{word[70:]}",
        "two keys": f"{good}\r{good}",
        "options before it": f'command="id" {good}',
        "a terminal's control characters": f"{good} me\x1b[2J@laptop",
        "a null byte": f"{good}\0",
        "another encoding": f"ssh-rsa {word[:-4]}+_-A",
    }


@pytest.mark.parametrize("name", malformed(1))
def test_a_key_that_some_part_would_not_take_is_refused(name: str, modulus: int) -> None:
    text = malformed(modulus)[name]
    for read in (parse_public, login_line):
        with pytest.raises(SettingsError) as error:
            read(text)
        assert "\n" not in str(error.value)


POINT = ec.derive_private_key(5, ec.SECP256R1()).public_key()
RAW = POINT.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
SHORT = POINT.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
P256, NISTP256 = "ecdsa-sha2-nistp256", string(b"nistp256")
OTHERS = {
    "an Ed25519 key that is short": line(string(b"ssh-ed25519"), string(bytes(31)), kind="ssh-ed25519"),
    "an Ed25519 key that is long": line(string(b"ssh-ed25519"), string(bytes(33)), kind="ssh-ed25519"),
    "bytes after an Ed25519 key": line(string(b"ssh-ed25519"), string(bytes(32)), b"\0", kind="ssh-ed25519"),
    "a point beside its curve": line(string(P256.encode()), NISTP256, string(RAW[:-1] + b"\0"), kind=P256),
    "a compressed point": line(string(P256.encode()), NISTP256, string(SHORT), kind=P256),
    "another curve inside": line(string(P256.encode()), string(b"nistp384"), string(RAW), kind=P256),
    "another type inside": line(string(b"ssh-ed25519"), NISTP256, string(RAW), kind=P256),
    "no point": line(string(P256.encode()), NISTP256, kind=P256),
    "a certificate": line(string(b"ssh-rsa-cert-v01@openssh.com"), kind="ssh-rsa-cert-v01@openssh.com"),
    "a security key": line(string(b"sk-ssh-ed25519@openssh.com"), kind="sk-ssh-ed25519@openssh.com"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_auditors_key_is_well_formed(name: str) -> None:
    with pytest.raises(SettingsError):
        login_line(OTHERS[name])


def test_what_is_read_every_part_takes(keys: dict[str, PrivateKey], tmp_path: Path) -> None:
    large = rsa.generate_private_key(public_exponent=65537, key_size=4096).public_key()
    good = [
        large.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode(),
        *(key.public.line for key in keys.values()),
        *(line(R, mpint(e), mpint(keys["alice-1"].public.rsa.public_numbers().n)) for e in (3, 35, 2**32 - 1)),
    ]
    for text in good:
        key = parse_public(f"  {text} José at home\t(laptop)\r\n")
        assert key.line == text
        check_recipient(key)
        assert key.rsa.key_size in (3072, 4096)
    points = line(string(P256.encode()), NISTP256, string(RAW), kind=P256)
    for text in (*good, ED25519, points):
        assert login_line(text) == text
        asyncssh.import_public_key(text)
        if shutil.which("ssh-keygen"):
            (tmp_path / "key.pub").write_text(text)
            subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], check=True, capture_output=True)

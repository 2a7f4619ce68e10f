"""The header of an age file: what age writes is read, and nothing that would cost age more than its recipients do."""

import io
import shutil
import subprocess
from pathlib import Path

import pyrage
import pytest

from fedssh import age
from fedssh.errors import BundleError
from fedssh.keys import PrivateKey

Keys = dict[str, PrivateKey]
PLAIN = b"x" * 100_000


def sealed(keys: Keys, *names: str) -> bytes:
    recipients = [pyrage.ssh.Recipient.from_str(keys[name].public.line) for name in names]
    found: bytes = pyrage.encrypt(PLAIN, recipients)
    return found


def read(data: bytes, recipients: int) -> tuple[age.Header, bytes]:
    """The header, and what follows it."""
    file = io.BytesIO(data)
    return age.read_header(file, recipients), file.read()


def opened(data: bytes, recipients: int, key: PrivateKey) -> bytes:
    header, rest = read(data, recipients)
    plain: bytes = pyrage.decrypt(age.narrowed(header, key) + rest, [pyrage.ssh.Identity.from_buffer(key.pem)])
    return plain


def test_a_header_is_read_and_narrowed_to_the_reader(keys: Keys) -> None:
    names = ("alice-1", "alice-2", "alice-3") * 40
    data = sealed(keys, *names)
    header, rest = read(data, len(names))
    assert header.text + rest == data
    for name in ("alice-1", "alice-3"):
        assert len(age.narrowed(header, keys[name])) < 1000
        assert opened(data, len(names), keys[name]) == PLAIN
    with pytest.raises(BundleError, match=r"no stanza of model.age opens with SHA256:"):
        age.narrowed(header, keys["stranger"])


def test_a_header_for_one_stays_as_it_is(keys: Keys) -> None:
    for _ in range(20):  # its grease stanza is another one each time
        data = sealed(keys, "coordinator")
        header, _ = read(data, 1)
        assert age.narrowed(header, keys["coordinator"]) == header.text
        assert len(header.text) <= age.max_bytes(1)


@pytest.mark.skipif(not shutil.which("age"), reason="age is not installed")
def test_what_stock_age_seals_is_read(keys: Keys, tmp_path: Path) -> None:
    for name in ("alice-1", "alice-2"):
        (tmp_path / name).write_text(keys[name].public.line)
    words = ["age", *(word for name in ("alice-1", "alice-2") for word in ("-R", str(tmp_path / name)))]
    data = subprocess.run(words, input=PLAIN, capture_output=True, check=True).stdout
    assert opened(data, 2, keys["alice-2"]) == PLAIN


def test_a_header_of_several_that_was_changed_is_refused(keys: Keys) -> None:
    data = sealed(keys, "alice-1", "alice-2")
    end = data.index(b"\n--- ") + 5
    letter = b"B" if data[end : end + 1] == b"A" else b"A"
    with pytest.raises(BundleError, match=r"the header of model.age is not as it was sealed"):
        opened(data[:end] + letter + data[end + 1 :], 2, keys["alice-1"])
    lines = data.split(b"\n")
    lines[2] = lines[2][::-1]  # alice-1's wrapped file key
    with pytest.raises(BundleError, match=r"no stanza of model.age opens"):
        opened(b"\n".join(lines), 2, keys["alice-1"])


LONG = "is malformed, or longer than 2,048 bytes"
GREASE = b"-> a-grease x\nAAAA\n"
HEADERS: dict[str, tuple[bytes, str]] = {
    "many stanzas of one key": (b"{own}" * 150, LONG),
    "many empty stanzas": (b"-> y-grease\n\n" + b"-> x\n\n" * 20_000 + b"{own}", "a stanza of type 'x'"),
    "one endless stanza": (b"-> ssh-rsa AAAAAA\n" + (b"A" * 64 + b"\n") * 2000 + b"\n{own}", LONG),
    "one endless line": (b"-> " + b"x " * 50_000 + b"\n\n{own}", LONG),
    "a second key": (b"{own}{own}", "sealed for 2 keys, its manifest names 1"),
    "no key": (b"", "sealed for 0 keys, its manifest names 1"),
    "grease only": (GREASE, "sealed for 0 keys, its manifest names 1"),
    "a stanza of another type": (b"{own}-> X25519 abc\nAAAA\n", "a stanza of type 'X25519'"),
    "a passphrase": (b"-> scrypt c2FsdA 30\nAAAA\n", "a stanza of type 'scrypt'"),
    "too much grease": (GREASE + b"{own}" + GREASE, "a stanza of type 'a-grease'"),
    "another number of words": (b"-> ssh-rsa\nAAAA\n{own}", "a stanza of type 'ssh-rsa'"),
    "a line too long": (b"-> ssh-rsa AAAAAA\n" + b"A" * 65 + b"\n{own}", LONG),
    "lines of Windows": (b"-> ssh-rsa AAAAAA\r\nAAAA\r\n{own}", LONG),
    "a control character": (b"-> \x1b[2J AAAAAA\nAAAA\n{own}", LONG),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_another_form_is_refused_before_age_sees_it(name: str, keys: Keys) -> None:
    text, reason = HEADERS[name]
    data = sealed(keys, "coordinator")
    start, grease = data.index(b"-> "), data.rindex(b"\n-> ", 0, data.index(b"\n--- ")) + 1
    own, rest = data[start:grease], data[data.index(b"--- ") :]
    with pytest.raises(BundleError) as error:
        read(data[:start] + text.replace(b"{own}", own) + rest, 1)
    assert reason in str(error.value)


def test_no_age_file_is_said_to_be_none() -> None:
    for data in (b"", b"age-encryption.org/v2\n", b"-----BEGIN AGE ENCRYPTED FILE-----\n"):
        with pytest.raises(BundleError, match=r"does not begin as an age file does"):
            read(data, 1)
    with pytest.raises(BundleError, match=LONG):
        read(b"age-encryption.org/v1\n", 1)

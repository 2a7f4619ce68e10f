"""The forced command's reading of what a client says, and how quickly it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.door import channel, fetch, upload
from fedssh.door.admission import DoorSettings, Enrolled, authorized_keys, forced_command, read_sites
from fedssh.door.openssh import config
from fedssh.errors import AgentError, SettingsError
from fedssh.forms import canonical

KEY = "ssh-rsa " + "A" * 400
ID = "01900000-0000-7000-8000-000000000000"


def start(state: Path, words: str, **changes: str) -> subprocess.CompletedProcess[bytes]:
    argv = forced_command(DoorSettings(state=state), Enrolled("alice-1", "site", KEY))
    for name, value in changes.items():
        argv[argv.index(f"--{name}") + 1] = value
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": words}
    return subprocess.run(argv, capture_output=True, env=environment, stdin=subprocess.DEVNULL, check=False, timeout=20)


def enrol(state: Path, *, site: str = "alice-1", role: str = "site", key: str = KEY, indent: int | None = None) -> None:
    import json

    (state / "outbox").mkdir(exist_ok=True)
    value = {"sites": [{"site": site, "role": role, "key": key}]}
    text = canonical(value) if indent is None else json.dumps(value, indent=indent).encode()
    (state / "outbox" / "sites.json").write_bytes(text)


@given(st.text(max_size=200))
def test_any_words_are_split_or_refused(line: str) -> None:
    words: list[str] = []
    code = None
    try:
        words = channel.split(line)
    except channel.Stop as stop:
        code = stop.code
    assert code in (None, 2) and all(isinstance(word, str) for word in words)


@given(st.text(max_size=60))
def test_an_identifier_is_a_lower_case_uuid_and_nothing_else(text: str) -> None:
    with pytest.raises(channel.Stop):
        fetch.identifier(text)


@pytest.mark.parametrize(
    "text",
    [
        ID.upper().replace("0", "A"),
        ID + "\n",
        " " + ID,
        "../" + ID,
        ID[:-1],
        ID + "0",
        ID.replace("-", ""),
        ID[:-1] + "٠",
        "",
    ],
)
def test_what_is_nearly_an_identifier_is_refused(text: str) -> None:
    with pytest.raises(channel.Stop, match="is not the identifier"):
        fetch.identifier(text)
    assert fetch.identifier(ID) == ID


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.5", "1e3", "0x1", "١", "²", "9" * 16, " 1", "1_0"])
def test_numbers_are_digits(text: str) -> None:
    with pytest.raises(channel.Stop, match="expected a whole number"):
        channel.number(text, "SEQ")


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e9", ".5", "1.", "1.2.3", "9" * 16, "١.٢"])
def test_seconds_are_plain_decimals(text: str) -> None:
    with pytest.raises(channel.Stop, match="expected seconds"):
        channel.seconds(text, "--wait")


def test_waits_are_cut_to_five_minutes() -> None:
    assert (channel.seconds("0.25", ""), channel.seconds("99999999", "")) == (0.25, 300)


@pytest.mark.parametrize("words", ["-t .", "-t", "-t ''", "-t ./", "-v -p -t .", "-pt .", "-t -- ."])
def test_what_scp_sends_for_one_file_is_accepted(words: str) -> None:
    upload.check_target(channel.split(words))


@pytest.mark.parametrize(
    "words", ["-f .", "-r -t .", "-d -t .", "-tr .", "-t /x", "-t ../x", "-t x", "-t . x", "-t -- -x", ".", "-t ~"]
)
def test_what_scp_sends_for_anything_else_is_refused(words: str) -> None:
    with pytest.raises(channel.Stop, match="refused: scp takes"):
        upload.check_target(channel.split(words))


# Enrolment


@pytest.mark.parametrize("indent", [None, 2])
def test_an_enrolment_is_found_in_any_json(tmp_path: Path, indent: int | None) -> None:
    enrol(tmp_path, indent=indent)
    assert start(tmp_path, "help").returncode == 0


@pytest.mark.parametrize(
    "changed", [{"site": "alice-2"}, {"role": "auditor"}, {"key": KEY[:-1] + "B"}, {"site": "xalice-1"}]
)
def test_another_enrolment_does_not_let_in(tmp_path: Path, changed: dict[str, str]) -> None:
    enrol(tmp_path, **changed)  # type: ignore[arg-type]
    told = start(tmp_path, "help")
    assert (told.returncode, told.stdout) == (3, b"")
    assert told.stderr == b"charity: refused: alice-1 is not enrolled with this key any more\n"


def test_before_the_vault_there_is_nothing_yet(tmp_path: Path) -> None:
    told = start(tmp_path, "help")
    assert (told.returncode, told.stderr) == (4, b"charity: later: the coordinator is not ready yet\n")
    enrol(tmp_path)
    told = start(tmp_path, "history")
    assert (told.returncode, told.stderr) == (4, b"charity: later: there is no history yet\n")


def test_a_site_holds_only_so_many_channels(tmp_path: Path) -> None:
    enrol(tmp_path)
    argv = forced_command(DoorSettings(state=tmp_path, max_channels=2), Enrolled("alice-1", "site", KEY))
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": f"verdict --wait 20 {ID}"}
    waiting = [subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        folder = tmp_path / "door" / "channels" / "alice-1"
        deadline = time.monotonic() + 10
        while not (folder.exists() and len(list(folder.iterdir())) == 2) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        told = start(tmp_path, "help", **{"max-channels": "2"})
        assert (told.returncode, told.stderr) == (4, b"charity: later: 2 channels of alice-1 are open already\n")
    finally:
        for process in waiting:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
    assert start(tmp_path, "help", **{"max-channels": "2"}).returncode == 0


def test_a_failing_door_tells_the_client_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "sites.json").write_text("{")
    told = start(tmp_path, "help")
    assert (told.returncode, told.stderr) == (1, b"charity: the door failed: JSONDecodeError\n")


def test_a_disk_that_takes_no_more_is_to_be_tried_later(tmp_path: Path) -> None:
    enrol(tmp_path)
    argv = forced_command(DoorSettings(state=tmp_path), Enrolled("alice-1", "site", KEY))
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": "scp -t ."}
    small = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *argv]  # no file above 512 or 1024 bytes
    told = subprocess.run(small, capture_output=True, env=environment, input=b"C0644 5000 x\n", check=False, timeout=20)
    assert (told.returncode, told.stdout) == (4, b"\0\1later: the coordinator cannot store it: File too large\n")
    assert list((tmp_path / "inbox" / "alice-1").iterdir()) == []


# What the forced command costs


def test_it_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    enrol(tmp_path)
    argv = forced_command(DoorSettings(state=tmp_path), Enrolled("alice-1", "site", KEY))
    argv[4] = argv[4].replace(
        "main()", "import atexit, os; os._exit = lambda code: print(*sys.modules, file=sys.stderr); main()"
    )
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": f"verdict {ID}"}
    told = subprocess.run(argv, capture_output=True, env=environment, check=False, timeout=20)
    loaded = set(told.stderr.decode().split())
    assert "fedssh.door.fetch" in loaded
    assert not loaded & {
        "json",
        "re",
        "shlex",
        "argparse",
        "dataclasses",
        "pathlib",
        "hashlib",
        "typing",
        "site",
        "click",
    }


# authorized_keys and sshd_config


def test_one_line_per_enrolment_and_nothing_between_the_lines(tmp_path: Path) -> None:
    evil = [
        {"site": "a\nssh-rsa AAAA", "role": "site", "key": KEY},
        {"site": "../x", "role": "site", "key": KEY},
        {"site": "alice-1", "role": "root", "key": KEY},
        {"site": "alice-1", "role": "site", "key": 'ssh-rsa AAAA",command="sh'},
        {"site": "alice-1", "role": "site", "key": f"{KEY}\nssh-rsa {'B' * 400}"},
        {"site": "alice-2", "role": "auditor", "key": KEY + " a comment"},
    ]
    (tmp_path / "sites.json").write_bytes(canonical({"sites": evil}))
    sites = read_sites(tmp_path / "sites.json")
    assert sites == [Enrolled("alice-1", "site", KEY), Enrolled("alice-2", "auditor", KEY)]
    lines = authorized_keys(DoorSettings(state=tmp_path / 'it\'s "odd" $HOME'), sites).splitlines()
    assert len(lines) == 3
    for line, name in zip(lines[1:], ("alice-1", "alice-2"), strict=True):
        assert line.startswith(f'restrict,command="exec {sys.executable} -I -S -c ')
        assert line.endswith(f" {KEY} {name}")
        assert f"--site {name} --role " in line
    assert read_sites(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["a\nb", "a\\b"])
def test_a_folder_that_cannot_stand_in_the_line_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot stand in authorized_keys"):
        authorized_keys(DoorSettings(state=tmp_path / name), [Enrolled("alice-1", "site", KEY)])


def test_the_configuration_knows_keys_only() -> None:
    text = config(DoorSettings(listen="[::1]:2222"), "charity", (9, 9))
    lines = text.splitlines()
    for wanted in ("PasswordAuthentication no", "PermitTTY no", "DisableForwarding yes", "ListenAddress [::1]:2222",
                   "AllowUsers charity", "PermitRootLogin no", "PerSourcePenalties no"):  # fmt: skip
        assert wanted in lines
    assert "Subsystem" not in text
    assert "PerSourcePenalties" not in config(DoorSettings(), "charity", (9, 2))


@pytest.mark.parametrize("listen", ["2222", "host", ":2222", "host:", "host:x", "host:70000", "host:-1"])
def test_an_address_is_host_and_port(listen: str) -> None:
    with pytest.raises(SettingsError, match="expected HOST:PORT"):
        DoorSettings(listen=listen).address()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"sites": 3}', '{"sites": [{"site": "alice-1"}]}', '{"sites": ["x"]}']
)
def test_a_malformed_list_of_sites_is_an_error_and_not_an_empty_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(AgentError, match="is not what the vault writes"):
        read_sites(tmp_path / "sites.json")

"""What a machine says of itself: read, not believed; and said by the real scripts with this machine's shells."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.errors import UntrustedError
from fleet.look import Facts, Room, answer_of, read
from fleet.ssh import script

SAID = """\
arch x86_64
time 1756684800
memory 2061584384
disk 19000000000
systemd yes
engine 26.1.5
compose 2.26.1
layers 18000000000
gpu yes
image fedssh-alice:0123456789abcdef
image fedssh-bob:fedcba9876543210
container alice exited 0 0 false 2026-09-01T00:00:00.5Z fedssh-alice:0123456789abcdef
container bob running 0 3 true 2026-09-01T00:00:01Z fedssh-bob:fedcba9876543210
prepared 11aa
release 7
rendered 22bb
releases 5 6 7
data 33cc
key ssh-rsa AAAA
joined yes
invitation 44dd
upgrade old=6 new=7 stage=copied
busy me@laptop, up, since 2026-09-01T00:00:02Z
"""


def test_what_is_said_is_read() -> None:
    alice, bob = "fedssh-alice:0123456789abcdef", "fedssh-bob:fedcba9876543210"
    facts = Facts(
        arch="x86_64", time=1756684800, memory=2061584384, disk=19000000000, layers=18000000000, systemd=True,
        engine="26.1.5", compose="2.26.1", gpu=True, prepared="11aa", release=7, releases=(5, 6, 7), rendered="22bb",
        begun=False, data="33cc", key="ssh-rsa AAAA", joined=True, invitation="44dd",
        upgrade="old=6 new=7 stage=copied", busy="me@laptop, up, since 2026-09-01T00:00:02Z",
        images=frozenset([alice, bob]),
        rooms={
            "alice": Room("exited", 0, 0, False, "2026-09-01T00:00:00.5Z", alice),
            "bob": Room("running", 0, 3, True, "2026-09-01T00:00:01Z", bob),
        },
    )  # fmt: skip
    assert read(SAID) == facts and facts.usable
    assert facts.well("alice") and facts.well("bob") and not facts.well("door")


def test_nothing_said_is_a_machine_without_anything() -> None:
    assert read("") == Facts() and not Facts().usable


@pytest.mark.parametrize(("engine", "compose"), [("down", "2.26"), ("26.1", "none"), ("", ""), ("26.1", "")])
def test_an_engine_that_does_not_answer_is_none(engine: str, compose: str) -> None:
    assert not read(f"engine {engine}\ncompose {compose}\n").usable


HOSTILE = [
    "memory much", "memory -1", "memory 1e9", "memory 1_000", "memory ٣", "memory " + "9" * 400, "time 1 2",
    "release none", "release ../../etc", "releases 1 two", "disk 0x10", "container alice running",
    "container alice running 0 0 false now a b", "container alice running x 0 false now a",
    "container alice running 0 -1 false now a", "container",
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE)
def test_what_is_none_of_its_words_is_not_trusted(line: str) -> None:
    with pytest.raises(UntrustedError, match="describes itself in words that are none") as caught:
        read(f"arch x86_64\n{line}\n")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_words_that_would_act_on_a_terminal_do_not() -> None:
    facts = read("busy \x1b[2J\x07me\nkey ssh-rsa \u202eAAAA\ncontainer \x1b[1m running 0 0 false now a\n")
    assert facts.busy == "\\u001b[2J\\u0007me" and facts.key == "ssh-rsa \\u202eAAAA"
    assert set(facts.rooms) == {"\\u001b[1m"}


LINES = st.lists(
    st.builds(
        "{} {}".format,
        st.sampled_from([line.partition(" ")[0] for line in SAID.splitlines()]) | st.text(max_size=10),
        st.text(max_size=40) | st.from_regex(r"\A\w+ \w+ -?\d+ \d+ \w+ \S+ \S+\Z"),
    )
)


@given(LINES.map("\n".join) | st.text() | st.binary().map(lambda some: some.decode(errors="replace")))
def test_whatever_a_machine_says_it_is_read_or_not_trusted(text: str) -> None:
    try:
        facts = read(text)
    except UntrustedError as error:
        assert str(error).isprintable()
        return
    assert all(0 <= number < 10**18 for number in (facts.time, facts.memory, facts.disk, facts.layers, facts.release))
    assert "".join([facts.arch, facts.key, facts.busy, *facts.images, *facts.rooms]).isprintable()


# The real scripts

FOLDER = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with every program of this machine but docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"):
        for program in Path(place).glob("[!.]*") if Path(place).is_dir() else ():
            if not program.name.startswith("docker") and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return folder


def look(shell: str, text: str) -> Facts:
    done = subprocess.run([shell, "-c", text, "sh"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return read(done.stdout)


def here(text: str, state: Path) -> str:
    """The script about another folder than that of a real deployment on this machine."""
    moved = text.replace("ROOT=/var/lib/fedssh OPT=/opt/fedssh", f"ROOT={state}/var OPT={state}/opt")
    assert moved != text
    return moved


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="machines run Linux, this one does not")
@pytest.mark.parametrize("shell", ["dash", "bash"])
class TestHere:
    def test_on_a_machine_without_an_engine(self, tmp_path: Path, programs: Path, shell: str) -> None:
        text = here(script("look", "me@home", "plan look"), tmp_path).replace(FOLDER, f"PATH={programs}\n")
        assert str(programs) in text and not shutil.which("docker", path=str(programs))
        facts = look(self.path(shell), text)
        assert facts.engine == "" and facts.images == frozenset() and facts.layers == 0 and not facts.usable
        assert facts.arch == os.uname().machine and facts.memory > 10**8 and facts.disk > 0 and facts.time > 1.7e9
        assert facts.release == 0 and facts.busy == "" and facts.upgrade == ""

    @pytest.mark.docker
    def test_on_a_machine_with_an_engine(self, tmp_path: Path, shell: str) -> None:
        facts = look(self.path(shell), here(script("look", "me@home", "plan look"), tmp_path))
        assert facts.usable and facts.engine[0].isdigit() and facts.compose.lstrip("v")[0].isdigit()

    def test_on_a_machine_where_an_upgrade_was_interrupted(self, tmp_path: Path, programs: Path, shell: str) -> None:
        for folder in ("var/site", "var/join", "var/vault", "var/outbox", "opt/releases/2", "opt/releases/10"):
            (tmp_path / folder).mkdir(parents=True)
        files = {
            "var/prepared": "mark\n", "var/data.sha256": "33cc\n", "var/site/site_key.pub": "ssh-rsa AAAA\n",
            "var/site/site.json": "{}", "var/join/invitation.json": "{}", "var/vault/ledger.db": "",
            "var/outbox/ledger.jsonl": "", "var/upgrade": "old=2 new=10 stage=copied\n",
            "opt/releases/10/compose.yaml": "{}", "opt/releases/.new": "",
        }  # fmt: skip
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        (tmp_path / "opt/current").symlink_to("releases/10")
        text = here(script("look", "me@home", "plan look"), tmp_path).replace(FOLDER, f"PATH={programs}\n")
        facts = look(self.path(shell), text)
        assert (facts.release, facts.releases) == (10, (2, 10)) and facts.upgrade == "old=2 new=10 stage=copied"
        assert facts.prepared == "mark" and facts.data == "33cc" and facts.key == "ssh-rsa AAAA"
        assert facts.begun and facts.joined and len(facts.rendered) == len(facts.invitation) == 64

    def test_who_works_there(self, tmp_path: Path, programs: Path, shell: str) -> None:
        text = here(script("look", "me@home", "plan look"), tmp_path).replace(FOLDER, f"PATH={programs}\n")
        hold = here(script("hold", "it's me@home", "up"), tmp_path)
        words = [self.path(shell), "-c", hold, "sh", "lock"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout and holder.stdout.readline() == "ready\n"
            assert look(self.path(shell), text).busy.startswith("it's me@home, up, since 20")
            second = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            assert second.returncode == 75 and second.stdout.startswith("busy it's me@home, up, since 20")
            holder.communicate("", timeout=10)  # the end of its input
        assert look(self.path(shell), text).busy == ""

    def path(self, shell: str) -> str:
        found = shutil.which(shell)
        if found is None:
            pytest.skip(f"no {shell}")
        return found


# Every line of shell

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "fleet/on_host").glob("*.sh"))
BEFORE = {"undo": ("back",), "upgrade_coordinator": ("back",)}
# What shellcheck need not say, and why.
EXCLUDED = {
    "SC2010": "the names that ls lists are numbers that we gave",
    "SC2012": "the same",
    "SC2016": "what stands in single quotes is a program for another shell, on purpose",
    "SC2148": "a script is given as words of `sh -c`, no line says by whom it is run",
    "SC2317": "not every script uses all of common.sh",
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_every_script_is_shell(name: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    text = script(name, "it's me", "up $(x)", *BEFORE.get(name, ()))
    done = subprocess.run([shell, "-n", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck (on Debian: apt install shellcheck)")
@pytest.mark.parametrize("name", sorted({*SCRIPTS} - {"common", "back"}))
def test_shellcheck_finds_nothing(name: str) -> None:
    words = ["shellcheck", "--shell=sh", "--format=gcc", f"--exclude={','.join(EXCLUDED)}", "-"]
    text = script(name, "me", "up", *BEFORE.get(name, ()))
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_who_and_what_are_words_to_the_shell_whatever_they_say(tmp_path: Path) -> None:
    nasty = f'\'; touch {tmp_path}/x; echo "$(touch {tmp_path}/y)"\nz`touch {tmp_path}/z`'
    common = here(script("nodes", nasty, nasty), tmp_path).partition("docker exec")[0]
    text = common + 'mkdir -p "$ROOT"; audit "$1"; fail "$WHO"'
    done = subprocess.run(["sh", "-c", text, "sh", "did"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == f"{nasty}\n"
    assert nasty in (tmp_path / "var/deploy.log").read_text() and sorted(os.listdir(tmp_path)) == ["var"]


def test_the_scripts_that_need_another_are_known() -> None:
    """Or those above would not check them whole."""
    assert {name for name in SCRIPTS if re.search("^ *back$", script(name, "", ""), re.MULTILINE)} == set(BEFORE)


@pytest.mark.parametrize("text", ["", "5", "{}", "[]", '{"a": {}}', '{"a": 1}', "\x1b[2J", "[" * 100_000, "null"])
def test_what_a_room_answers_is_not_believed_either(text: str) -> None:
    no_json = pytest.raises(UntrustedError, match="hospital-a: its rooms answer no JSON of theirs")
    with no_json as caught, answer_of("hospital-a"):
        print(json.loads(text)["a"]["b"] + 1)
    assert str(caught.value).isprintable()

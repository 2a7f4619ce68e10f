"""fleet.toml: what it may say, one clear error for each thing that it may not, and nothing that runs at home."""

from __future__ import annotations

import base64
import dataclasses
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.alice.cli import TrainSettings
from fedssh.charity.cli import InitSettings
from fedssh.errors import SettingsError
from fleet import inventory
from fleet.inventory import Cloud, Given, Inventory, read
from fleet.pins import born_with

PUBLIC = born_with()[1]
RECIPIENT = "age1" + "q" * 58
DIGEST = "registry.example/charity@sha256:" + "0" * 64
LINODE = '[linode]\nssh_key = "me.pub"\nadmin_from = ["198.51.100.4/32"]\n'
COORDINATOR = '[coordinator]\nhost = "root@192.0.2.1"\ndata = "xrays.npz"\n'
SITE = '[sites.hospital-a]\nhost = "root@192.0.2.10"\ndata = "a.npz"\n'
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes an inventory beside everything that one may name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    for name in ("me.pub", "hospital-b.pub", "hospital-a.pub", ".ssh/id_ed25519.pub"):
        (tmp_path / name).write_text(f"{PUBLIC} me\n")
    for name in ("xrays", "a", "b", "newark", "frankfurt", "singapore"):
        (tmp_path / f"{name}.npz").write_bytes(name.encode())

    def one(text: str) -> Path:
        (tmp_path / "fleet.toml").write_bytes(text.encode(errors="surrogateescape"))
        return tmp_path / "fleet.toml"

    return one


def inventory_of(*parts: str) -> str:
    return 'federation = "chest-xrays"\n' + "".join(parts)


def refused(path: Path) -> str:
    """The one line that an inventory is refused with."""
    with pytest.raises(SettingsError) as caught:
        read(path)
    said = str(caught.value)
    assert said.isprintable() and path.name in said
    return said


def test_the_example_of_the_module_reads(write: Write, tmp_path: Path) -> None:
    example = textwrap.dedent("\n".join((inventory.__doc__ or "").partition("\n\n")[2].split("\n\n")[0].splitlines()))
    read_ = read(write(example.replace("age1…", RECIPIENT).replace("ssh-ed25519 …", f"{PUBLIC} me")))
    assert read_.federation == "chest-xrays" and read_.images is None and read_.tag == "fedssh-chest-xrays"
    coordinator, site = read_.hosts
    assert read_.coordinator is coordinator and read_.sites == (site,)
    assert coordinator.place == Cloud("us-east", "g6-standard-1") and coordinator.settings == {"policy": "gather"}
    assert coordinator.data == tmp_path / "xrays.npz" and coordinator.port == 2222
    assert site.place == Given("root", "192.0.2.10", 22) and site.data_on_host == "/srv/xrays" and site.data is None
    assert read_.auditors == {"me": tmp_path / ".ssh/id_ed25519.pub"}
    assert read_.recipients == (RECIPIENT, PUBLIC)
    assert read_.linode and read_.linode.admin_from == ("198.51.100.4/32",)


def test_the_examples_of_the_page_read(root: Path, write: Write) -> None:
    blocks = re.findall(
        r"^```toml\n(.+?)^```$", (root / "docs/how-to/virtual-machines.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    for block in blocks:
        text = block.replace("ssh-ed25519 AAAA… me", f"{PUBLIC} me").replace("ssh-ed25519 AAAA…", PUBLIC)
        whole = text if "federation" in text else inventory_of(COORDINATOR, text)
        assert read(write(whole)).sites


def test_a_site_that_somebody_else_deploys(write: Write, tmp_path: Path) -> None:
    theirs = read(write(inventory_of(COORDINATOR, '[sites.hospital-b]\nkey = "hospital-b.pub"\n')))
    assert theirs.sites[0].place is None and theirs.sites[0].key == tmp_path / "hospital-b.pub"
    assert [host.name for host in theirs.chosen(None)] == ["coordinator"]
    own = read(write(inventory_of(SITE, 'invitation = "later.json"\nvia = "socks5h://proxy.example:1080"\n')))
    assert own.coordinator is None and own.sites[0].invitation == tmp_path / "later.json"  # which comes later


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("root@192.0.2.10", Given("root", "192.0.2.10", 22), "root@192.0.2.10"),
        ("it@xray-1.example:2201", Given("it", "xray-1.example", 2201), "it@xray-1.example:2201"),
        ("root@[2001:db8::7]", Given("root", "2001:db8::7", 22), "root@[2001:db8::7]"),
        ("root@[2001:db8::7]:2201", Given("root", "2001:db8::7", 2201), "root@[2001:db8::7]:2201"),
        ("linode:eu-central/g6-standard-1", Cloud("eu-central", "g6-standard-1"), "linode:eu-central/g6-standard-1"),
    ],
)
def test_a_host_is_read_and_shown_as_it_was_written(write: Write, text: str, place: object, shown: str) -> None:
    found = read(write(inventory_of(LINODE, COORDINATOR.replace("root@192.0.2.1", text)))).hosts[0].place
    assert found == place and str(found) == shown
    if isinstance(found, Given):
        assert found.at(2222) == f"{found.bracketed}:2222"


def test_only_one_host(write: Write) -> None:
    both = read(write(inventory_of(COORDINATOR, SITE)))
    assert [host.name for host in both.chosen("hospital-a")] == ["hospital-a"]
    with pytest.raises(SettingsError, match=r"fleet.toml has no host 'hospitala'; did you mean 'hospital-a'\?"):
        both.chosen("hospitala")


def site(line: str) -> str:
    return inventory_of(COORDINATOR, SITE, line)


def coordinator(line: str) -> str:
    return inventory_of(COORDINATOR, line)


HOSTS = [
    "192.0.2.10", "root@", "@192.0.2.10", "root@a b", "root@192.0.2.10:0", "root@192.0.2.10:65536", "root@host:ssh",
    "root@2001:db8::7", "root@[::::]", "root@[192.0.2.1]", "root@[::1", "linode:us-east", "linode:/g6", "linode:US/g6",
    "-oProxyCommand=x@y", "-x@192.0.2.10", "root@-oProxyCommand=x", "root@$(touch x)", "$(touch x)@h", "root@h;touch",
    "root@`x`", "root@h'", 'root@h\\"', "root@h|x", "root@%h", "ssh://root@h", "root@h/x", "root@ho\\nst", "",
]  # fmt: skip

# What is wrong, and what is said of it.
WRONG: list[tuple[str, str]] = [
    ("", "federation is missing"),
    (COORDINATOR, "federation is missing"),
    ("federation = 5", "federation is 5, expected a name"),
    ('federation = "Chest"', "federation is 'Chest', expected a name"),
    ('federation = "-x"', "federation is '-x', expected a name"),
    ('federation = "x-"', "federation: 'x-' is no name"),
    ('federation = "../x"', "federation is '../x', expected a name"),
    (inventory_of(), "there is neither a [coordinator] nor a site in it"),
    (inventory_of("coordinater = {}"), "coordinater is not known; did you mean 'coordinator'?"),
    (inventory_of("coordinator = 5"), "coordinator: expected a table, [coordinator]"),
    (inventory_of("sites = []"), "sites: expected a table, [sites]"),
    (inventory_of(COORDINATOR, "[sites]\nhospital-a = 1"), "sites.hospital-a: expected a table"),
    (inventory_of(COORDINATOR, "[sites.Hospital]"), "sites: 'Hospital' is no name"),
    (inventory_of(COORDINATOR, '[sites."-rf"]'), "sites: '-rf' is no name"),
    (inventory_of(COORDINATOR, '[sites."a\\nb"]'), r"sites: 'a\nb' is no name"),
    (inventory_of(COORDINATOR, SITE.replace("hospital-a", "coordinator")), "no site can be called coordinator"),
    (coordinator("polcy = 1"), "coordinator.polcy is not known; did you mean 'policy'?"),
    (site("data-on-host = '/x'"), "sites.hospital-a.data-on-host is not known; did you mean 'data_on_host'?"),
    (site("policy = 'best'"), "sites.hospital-a.policy is not known"),
    (inventory_of('[coordinator]\ndata = "xrays.npz"'), "coordinator.host is missing"),
    (inventory_of('[coordinator]\nhost = "root@h"'), "coordinator: give data (copied there) or data_on_host"),
    (coordinator('data_on_host = "/srv/x"'), "coordinator: give data (copied there) or data_on_host"),
    (site('data_on_host = "/srv/x"'), "sites.hospital-a: give data (copied there) or data_on_host"),
    (inventory_of(COORDINATOR, '[sites.b]\nhost = "root@h"'), "sites.b: give data (copied there) or data_on_host"),
    (coordinator("").replace("xrays.npz", "no.npz"), "no.npz cannot be read: No such file or directory"),
    (coordinator("").replace("xrays.npz", "~nobody-of-that-name/x"), "coordinator.data: "),
    (coordinator("").replace("xrays.npz", "x" * 300), "File name too long"),
    (coordinator("").replace("xrays.npz", "/dev/null"), "coordinator.data: /dev/null is neither a file nor a folder"),
    (coordinator("").replace('"xrays.npz"', "['a']"), "coordinator.data is"),
    (inventory_of(COORDINATOR, SITE.replace("192.0.2.10", "192.0.2.1")), "two hosts have the same machine"),
    (inventory_of(COORDINATOR, SITE.replace("root@192.0.2.10", "it@192.0.2.1")), "two hosts have the same machine"),
    (inventory_of(COORDINATOR, SITE, SITE.replace("a]", "b]")), "two hosts have the same machine"),
    (inventory_of(COORDINATOR.replace("root@192.0.2.1", "linode:us-east/g6-1")), "there is no [linode]"),
    (inventory_of(COORDINATOR, "[linode]\nadmin_from = ['192.0.2.1/32']"), "linode.ssh_key is missing"),
    (inventory_of(COORDINATOR, '[linode]\nssh_key = "me.pub"'), "linode.admin_from is missing"),
    (inventory_of(COORDINATOR, LINODE.replace("me.pub", "no.pub")), "linode.ssh_key: "),
    (inventory_of(COORDINATOR, LINODE.replace("me.pub", "xrays.npz")), "xrays.npz is no public key"),
    (inventory_of(COORDINATOR, LINODE.replace('"198.51.100.4/32"', "")), "linode.admin_from is empty"),
    (inventory_of(COORDINATOR, LINODE.replace('["198.51.100.4/32"]', '"x"')), "linode.admin_from: expected a list"),
    (inventory_of(COORDINATOR, LINODE.replace("4/32", "4/24")), "linode.admin_from: 198.51.100.4/24 has host bits"),
    (inventory_of(COORDINATOR, LINODE.replace("198.51.100.4/32", "home")), "linode.admin_from: 'home' does not"),
    (inventory_of(COORDINATOR, LINODE, "token = 'x'"), "linode.token is not known"),
    (
        inventory_of(LINODE, COORDINATOR.replace("root@192.0.2.1", "linode:us-east/g6-1")).replace("chest-", "chest--"),
        "Linode wants at most 32 characters",
    ),
    (
        inventory_of(LINODE, "[sites.a-hospital-in-frankfurt]\n", SITE.partition("\n")[2])
        .replace("root@192.0.2.10", "linode:us-east/g6-1"),
        "'chest-xrays-a-hospital-in-frankfurt'",
    ),
    *[
        (site("").replace("root@192.0.2.10", text), "sites.hospital-a.host")
        for text in HOSTS
    ],
    (site("").replace('"root@192.0.2.10"', "5"), "sites.hospital-a.host is 5, expected a text"),
    (site("gpu = 'yes'"), "sites.hospital-a.gpu is 'yes', expected true or false"),
    (site("memory = '1gb'"), "sites.hospital-a.memory: '1gb' is not a size such as 1g or 1500m"),
    (site("memory = 2"), "sites.hospital-a.memory is 2, expected a text"),
    (site("seed = -1"), "sites.hospital-a.seed is -1, expected a whole number"),
    (site("classes = 'a\u202eb'"), "sites.hospital-a.classes is"),
    (site('via = "a\\u0000b"'), "sites.hospital-a.via is"),
    (site('key = "hospital-b.pub"'), "sites.hospital-a: a site with a host makes its key there"),
    (site('invitation = "x.json"'), "sites.hospital-a: an invitation is for a site whose coordinator is in another"),
    (inventory_of(COORDINATOR, "[sites.b]"), "sites.b: give its host, or its key"),
    (inventory_of('[sites.b]\nkey = "hospital-b.pub"'), "sites.b: a site without a host needs a [coordinator]"),
    (inventory_of(COORDINATOR, '[sites.b]\nkey = "a.npz"'), "a.npz is no public key"),
    (site("host_key = 'SHA256:" + "a" * 43 + "'"), "host_key: give the key itself"),
    (site("host_key = 'ssh-ed25519'"), "host_key: 'ssh-ed25519' is not a public key"),
    (site("host_key = 'ssh-ed25519 AAAA'"), "host_key: 'ssh-ed25519 AAAA' is not a public key"),
    (site(f"host_key = '{PUBLIC.replace('ssh-ed25519', 'ssh-rsa')}'"), "is not a public key"),
    (site(f'host_key = "{PUBLIC}\\n* {PUBLIC}"'), "sites.hospital-a.host_key is"),
    (coordinator("port = 0"), "coordinator.port is 0, expected a whole number in 1..65,535"),
    (coordinator("port = true"), "coordinator.port is true, expected a whole number"),
    (coordinator("port = 0x" + "f" * 5000), "fleet.toml: "),
    *[
        (coordinator(f"address = '{text}'"), "coordinator.address: ")
        for text in ("charity.example", "h:0", "h:99999", "-x:22", "a b:22", "$(x):22", "[x]:22", "u@h:22", "::1:22")
    ],
    *[
        (inventory_of(f'[sites.b]\nhost = "root@h"\ndata_on_host = "{path}"'), "sites.b.data_on_host")
        for path in ("srv/x", "/", "//", "/srv/x:/etc", "/srv/../etc", "/srv/x\\u0000", "/srv/\\nx", "")
    ],
    # Terms of `charity init`, by her own rules
    (coordinator("sessions = 0"), "coordinator.sessions is 0, expected a whole number"),
    (coordinator("margin = 2"), "coordinator.margin is 2, expected a number"),
    (coordinator("margin = nan"), "coordinator.margin is nan, expected a number"),
    (coordinator("gate = 'maybe'"), "coordinator.gate is 'maybe', expected one of on, off, ladder"),
    (coordinator("schedule = 'rounds'"), "coordinator.schedule is 'rounds', expected one of free, relay"),
    (coordinator("metric = 'kappa'"), "coordinator.metric is 'kappa', expected one of"),
    (coordinator("policy = 'marge'"), "coordinator.policy: "),
    (coordinator("policy = 'fedavg:deadline=soon'"), "coordinator.policy: "),
    (coordinator("policy = 5"), "coordinator.policy is 5, expected a text"),
    (coordinator("policy = 'fedavg'\nschedule = 'relay'"), "coordinator: the policy fedavg trains in rounds"),
    (coordinator("policy = 'fedavg'\npublish = 'improved'"), "coordinator: the policy fedavg takes one update"),
    (coordinator("momentum = 0.5"), "coordinator: --momentum belongs to sgd, not to adam"),
    (coordinator("name = 'x'"), "coordinator.name is not known"),
    (coordinator("learning_rate = 0"), "coordinator.learning_rate is 0, expected a number above 0"),
    (coordinator("genesis_epochs = 1979-05-27"), "coordinator.genesis_epochs is"),
    (coordinator('architecture = "a\\u001b[2J"'), "coordinator.architecture is"),
    # Images
    (inventory_of('image = "latest"\n', COORDINATOR), "image is 'latest', expected one of build"),
    (inventory_of('image = "build"\n', COORDINATOR, f'[images]\ncharity = "{DIGEST}"'), "give image or [images]"),
    (inventory_of(COORDINATOR, "[images]\ncharity = 'registry.example/charity:1'"), "images.charity: "),
    (inventory_of(COORDINATOR, f"[images]\ncharity = '{DIGEST}0'"), "images.charity: "),
    (inventory_of(COORDINATOR, f"[images]\ncharity = '--platform={DIGEST}'"), "images.charity: "),
    (inventory_of(COORDINATOR, f"[images]\ncharity = '$(x){DIGEST}'"), "images.charity: "),
    (inventory_of(COORDINATOR, f"[images]\ncharitable = '{DIGEST}'"), "images.charitable is not known; did you mean"),
    (inventory_of(COORDINATOR, "[images]\nbob = 3"), "images.bob is 3, expected a text"),
    (inventory_of("images = 3\n", COORDINATOR), "images: expected a table, [images]"),
    # Who else
    (inventory_of(COORDINATOR, "[auditors]\nme = 'no.pub'"), "auditors.me: "),
    (inventory_of(COORDINATOR, "[auditors]\nme = '.'"), "auditors.me: "),
    (inventory_of(COORDINATOR, "[auditors]\nMe = 'me.pub'"), "auditors: 'Me' is no name"),
    (inventory_of(COORDINATOR, SITE, "[auditors]\nhospital-a = 'me.pub'"), "auditors.hospital-a: that name is taken"),
    (inventory_of(SITE, "[auditors]\ncoordinator = 'me.pub'"), "auditors.coordinator: that name is taken"),
    (inventory_of("auditors = ['me.pub']\n", COORDINATOR), "auditors: expected a table"),
    *[
        (inventory_of(COORDINATOR, f'[backup]\nrecipients = ["{text}"]'), "backup.recipients")
        for text in ("age1x", "me", RECIPIENT.upper(), "ssh-dss AAAA", "ssh-ed25519", "-R /etc/passwd", "")
    ],
    (inventory_of(COORDINATOR, f'[backup]\nrecipients = "{RECIPIENT}"'), "backup.recipients: expected a list"),
    (inventory_of(COORDINATOR, f'[backup]\nrecipient = ["{RECIPIENT}"]'), "did you mean 'recipients'?"),
    # Options of `ssh` that start a program at home, or change whom it believes
    *[
        (inventory_of(f"ssh = ['{text}']\n", COORDINATOR), "fleet.toml: ssh")
        for text in (
            "ProxyCommand=touch x", "LocalCommand=x", "PermitLocalCommand=yes", "KnownHostsCommand=/x", "Include=/x",
            "Match=exec x", "PKCS11Provider=/x.so", "SecurityKeyProvider=/x.so", "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/x", "SendEnv=LINODE_TOKEN", "RemoteForward=1 h:2", "ForwardAgent=yes",
            "-oProxyCommand=x",
            "proxycommand=x", "ProxyCommand x", "ProxyJump=-oProxyCommand=x", "ProxyJump=$(x)@h", "ProxyJump=h;x",
            "ProxyJump=a@h,`x`", "ProxyJump=", "",
        )
    ],
    (inventory_of("ssh = ['IdentityFle=x']\n", COORDINATOR), "did you mean 'IdentityFile'?"),
    (inventory_of("ssh = 'ProxyJump=h'\n", COORDINATOR), "ssh: expected a list of texts"),
    # No TOML at all
    ('federation = "x', "fleet.toml cannot be read: "),
    ("federation = 'x'\nfederation = 'y'", "fleet.toml cannot be read: "),
    ("x = " + "[" * 5000, "fleet.toml cannot be read: "),
    ("\udcff\udcfe", "fleet.toml cannot be read: 'utf-8' codec"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_one_clear_error_that_names_the_place(write: Write, text: str, said: str) -> None:
    assert said in refused(write(text))


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist") as caught:
        read(tmp_path / "fleet.toml")
    assert caught.value.hint and "docs/how-to/virtual-machines.md" in caught.value.hint
    (tmp_path / "fleet.toml").mkdir()
    assert "fleet.toml cannot be read: Is a directory" in refused(tmp_path / "fleet.toml")


def test_options_of_ssh_that_an_inventory_may_set(write: Write) -> None:
    some = ("ProxyJump=it@jump.example:2222,[2001:db8::7]", "IdentityFile=~/.ssh/deploy", "IdentitiesOnly=yes")
    assert read(write(inventory_of(f"ssh = {list(some)}\n", COORDINATOR))).ssh == some


def test_all_terms_and_settings_are_those_of_the_commands_themselves() -> None:
    hers = {field.name for field in dataclasses.fields(InitSettings)}
    other = {"name", "address", "data", "state", "if_needed"}  # said by `up`
    other |= {"weights", "terms", "networks"}  # files that would have to be there
    assert {*inventory._TERMS, *inventory._INIT} == hers - other
    assert set(inventory._ALICE) <= {field.name for field in dataclasses.fields(TrainSettings)}


# No other error, whatever it says

WORDS = st.sampled_from([
    "federation", "image", "images", "linode", "coordinator", "sites", "auditors", "backup", "ssh", "host", "data",
    "key", "data_on_host", "host_key", "address", "port", "gpu", "invitation", "via", "memory", "policy", "recipients",
    "ssh_key", "admin_from", "hospital-a", "charity", "schedule", "classes", "margin",
])  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=30), WORDS,
    st.sampled_from(["root@192.0.2.1", "linode:us-east/g6", "xrays.npz", "me.pub", "/srv/x", "merge", "~x/y"]),
    st.sampled_from([PUBLIC, DIGEST, RECIPIENT]),
)  # fmt: skip
SCALARS = st.one_of(TEXTS, st.integers(), st.floats(), st.booleans())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=6)
)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(one)}" for name, one in value.items()) + "}"
    return repr(value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inventory")
    (folder / "xrays.npz").touch()
    (folder / "me.pub").write_text(PUBLIC)
    return folder / "fleet.toml"


def read_or_refused(path: Path, content: bytes) -> Inventory | None:
    path.write_bytes(content)
    try:
        return read(path)
    except SettingsError as error:
        assert str(error).isprintable()
        return None


@given(st.dictionaries(WORDS, VALUES, max_size=5))
def test_no_value_makes_it_raise_anything_else(place: Path, table: dict[str, Any]) -> None:
    text = "".join(f"{name} = {toml(value)}\n" for name, value in table.items())
    read_or_refused(place, text.encode())


@given(st.sampled_from(["coordinator", "sites.hospital-a", "linode", "images", "backup", "auditors"]), WORDS, VALUES)
def test_nor_does_a_value_in_an_inventory_that_is_right_beside(place: Path, table: str, name: str, value: Any) -> None:
    text = {"coordinator": COORDINATOR, "sites.hospital-a": SITE.replace("a.npz", "xrays.npz")}
    others = "".join(one for other, one in text.items() if other != table)
    read_or_refused(place, inventory_of(others, text.get(table, f"[{table}]\n"), f"{name} = {toml(value)}\n").encode())


@given(st.binary(max_size=200) | st.text(alphabet="[]{}=\"'\\\n#.,ax1-", max_size=60).map(str.encode))
def test_nor_do_bytes(place: Path, content: bytes) -> None:
    read_or_refused(place, content)


NASTY = st.text(alphabet="ab-$()`'\"\\;|&<> \n\t\x00\x1b{}*~%@:/.,=", min_size=1, max_size=24)


@given(NASTY, NASTY)
def test_a_host_that_reads_is_no_option_and_nothing_of_a_shell(place: Path, user: str, host: str) -> None:
    found = read_or_refused(place, inventory_of(COORDINATOR).replace("root@192.0.2.1", "@").encode())
    assert found is None
    text = inventory_of('[coordinator]\ndata = "xrays.npz"\nhost = ', toml(f"{user}@{host}"), "\n")
    if found := read_or_refused(place, text.encode()):
        assert isinstance(found.hosts[0].place, Given)
        words = (found.hosts[0].place.user, found.hosts[0].place.host)
        assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", word) for word in words)


def test_a_host_key_is_a_key_of_its_kind() -> None:
    kinds = {kind: base64.b64encode(len(kind).to_bytes(4, "big") + kind.encode() + b"x").decode() for kind in (
        "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com")}  # fmt: skip
    for kind, text in kinds.items():
        assert inventory._host_key("host_key", f"{kind} {text} comment") == f"{kind} {text}"

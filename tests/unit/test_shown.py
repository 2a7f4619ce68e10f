"""Every command that the pages show exists, and says which test runs it, or why none does."""

from __future__ import annotations

import re
from pathlib import Path

import click

from fedssh.history.verbs import VERBS
from fedssh.rules.policies import described
from scripts.pages import commands

HERE = "tests/e2e/test_pages.py"
PROCESSES = "tests/e2e/test_processes.py"
COMPOSE = "tests/e2e/test_compose.py"
FOLLOW = "tests/integration/test_follow.py"
FLEET = "tests/integration/test_fleet.py"
TABLES = "tests/integration/test_table_federation.py"
WHICH = "tests/unit/test_which_of_the_two.py"
# Pages with commands that a test of their own runs; whoever writes one names the page in the test instead.
PAGES = {
    "masks": "tests/integration/test_masked_rooms.py",
    "tables": TABLES,
    "tasks": "tests/integration/test_tasks.py",
    "thresholds": "tests/integration/test_decision.py",
}
# What console blocks show, on whichever other page: the test that does it, or why none does.
SHOWN = {
    "python3 -m venv .venv && . .venv/bin/activate": HERE,
    "pip install --require-hashes --no-deps -r locks/bob.txt": HERE,
    "pip install --no-deps --no-build-isolation .": HERE,
    ". .venv/bin/activate": "not run: the tests call its programs by their paths",
    "scripts/quickstart": PROCESSES,
    "scripts/quickstart --keep-running": PROCESSES,
    "scripts/quickstart --dataset xrays --state state-xrays": "not run: as the first, which takes a minute",
    "scripts/test": "not run: it is what runs this test",
    "scripts/verify ledger.jsonl state/coordinator/outbox/allowed_signers": HERE,
    "ssh -p PORT -i state/keys/auditor -o UserKnownHostsFile=state/keys/known_hosts charity@127.0.0.1 history": (
        PROCESSES
    ),
    "ssh -p 2222 charity@charity.example history": PROCESSES,
    "ssh -p 2222 charity@charity.example history --last 20 --follow": FOLLOW,
    "ssh -p 2222 charity@charity.example history --since 2h --site alice-1 --event accepted,refused": FOLLOW,
    "ssh -p 2222 charity@charity.example history --csv > history.csv": FOLLOW,
    "ssh -p 2222 -i keys/auditor -o UserKnownHostsFile=keys/known_hosts charity@localhost history": COMPOSE,
    "docker compose up --build --detach": COMPOSE,
    "docker compose cp setup:/keys/. keys/": COMPOSE,
    "python folders.py": HERE,
    "charity check xrays": HERE,
    "charity check xrays --holdout 0.2": "tests/integration/test_own_data.py",
    "charity history --state state/coordinator": HERE,
    "charity report --state state/coordinator > report.html": HERE,
    "charity best --state state/coordinator": HERE,
    "charity show 1 --state state/coordinator": HERE,
    "charity score --split test --state state/coordinator": HERE,
    "charity verify --state state/coordinator": HERE,
    "charity history --state state/coordinator --export > ledger.jsonl": HERE,
    "charity export best best.keras --state state/coordinator": HERE,
    "charity init --data xrays --name chest-xrays --sessions 3": HERE,
    "charity nodes add hospital-a hospital-a.pub --address charity@charity.example:2222 > hospital-a.json": HERE,
    "charity serve --door embedded --listen 0.0.0.0:2222": PROCESSES,
    "charity best": HERE,
    "charity plan --architecture cnn --size 28x28x1 --images 1412 --sites 3": WHICH,
    "charity plan --networks experiments/networks --architecture vgg --size 32x32x3 --outputs 10 --images 500 "
    "--sites 100 --wire f32 --cut conv1_1": WHICH,
    "charity score --split test": HERE,
    "bob keygen --state site": HERE,
    "bob join hospital-a.json --state site": HERE,
    "bob watch --state site --exchange exchange": HERE,
    "bob receipts --state site": HERE,
    "alice join hospital-a.json --exchange exchange": HERE,
    "alice train --data hospital --exchange exchange": HERE,
    "alice predict photographs --csv predictions.csv": HERE,
    "alice export best.keras": HERE,
    "unzip -p best.keras class_names.json": "tests/integration/test_in_use.py",
    "unzip -p best.keras README.md": "tests/integration/test_in_use.py",
    "fedssh doctor --state site": "tests/integration/test_doctor.py",
    "fedssh doctor --state coordinator --listen 127.0.0.1:2222": "tests/integration/test_doctor.py",
    "scripts/experiment --list": "not run: it prints a list",
    "scripts/experiment thesis-nodes --quick": "not run: tests/integration/test_experiment.py has a smaller one",
    "scripts/experiment thesis-nodes": "not run: it takes hours",
    "scripts/experiment thesis-nodes --seed 1 2 3": "not run: it takes hours",
    "scripts/experiment --report results/*": "tests/unit/test_experiment_report.py",
    "scripts/experiment --report docs/explanation/results/*.json.gz": "tests/unit/test_experiment_report.py",
}
# The same for sh blocks, by page and how they begin.
BLOCKS = {
    ("report", "ssh -p 2222 charity@charity.example report"): "tests/integration/test_door.py",
    ("invite", "bob keygen"): HERE,
    ("invite", "charity init"): HERE,
    ("invite", "bob join"): HERE,
    ("invite", "alice join"): HERE,
    ("policy", "charity init"): HERE,
    ("read-history", "charity tag"): "tests/integration/test_named.py",
    ("few-labels", "charity init --data"): HERE,
    ("few-labels", "charity init --unlabelled autoencoder"): "tests/integration/test_autoencoder.py",
    ("verify", "BUNDLE="): HERE,
    ("verify", "charity history"): HERE,
    ("operations", "groupadd"): "not run: it makes accounts",
    ("operations", "useradd"): "not run: it makes accounts",
    ("operations", "charity serve --state coordinator --metrics"): "tests/integration/test_metrics.py",
    ("operations", "bob join"): "tests/integration/test_ways.py",
    ("operations", "systemctl stop fedssh-charity"): "not run: it needs systemd",
    ("operations", "systemctl stop fedssh-alice"): "not run: it needs systemd",
    ("operations", "charity nodes revoke"): "tests/integration/test_judge.py",
    ("operations", "systemctl disable"): "not run: it needs systemd",
    ("virtual-machines", "export LINODE_TOKEN"): "not run: an account of one's own",
    ("virtual-machines", "scripts/deploy plan"): FLEET,
    ("virtual-machines", "ssh -p 2222"): FLEET,
    ("virtual-machines", "git pull"): "tests/integration/test_fleet_upgrades.py",
    ("virtual-machines", "scripts/deploy backup"): FLEET,
    ("virtual-machines", "scripts/deploy down"): FLEET,
}
PROGRAMS = {**{name: name for name in commands.PROGRAMS}, "scripts/deploy": "deploy"}
_OURS = re.compile(r"(?:alice|bob|charity|fedssh|scripts/deploy) [a-z][^#>|;&)]*")


def pages(root: Path) -> dict[str, str]:
    """The text of every page that people wrote."""
    found = [root / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
    found += [path for path in (root / "docs").rglob("*.md") if path.parent.name not in ("reference", "results")]
    return {path.stem: path.read_text() for path in found if path.stem != "index"}


def on_their_own(root: Path) -> set[str]:
    """The pages that have a test of their own, which names them, or which PAGES names."""
    texts = [path.read_text() for path in (root / "tests/integration").glob("test_*.py")]
    found = {
        path for path in (root / "docs/how-to").glob("*.md") if any(f"how-to/{path.name}" in text for text in texts)
    }
    return {path.stem for path in found} | set(PAGES)


def blocks(text: str, *kinds: str) -> list[str]:
    """The code blocks of some kinds, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [code for kind, code in found if kind in kinds]


def shown(text: str) -> list[str]:
    """The commands of a page's console blocks, without what is said of them; a block without a kind may be one, too."""
    lines = [line for block in blocks(text, "console", "") for line in block.splitlines()]
    return [line[2:].partition("   #")[0].strip() for line in lines if line.startswith("$ ")]


def mistakes(line: str) -> list[str]:
    """Which words of a command line of ours no command of that name has."""
    program, *words = line.split()
    command: click.Command = commands.group_of(PROGRAMS[program])
    while isinstance(command, click.Group):
        verbs = [word for word in words if not word.startswith("-")]
        if not verbs:
            return []
        if verbs[0] in ("alice", "bob", "charity") and program == "fedssh":
            return mistakes(" ".join(words[words.index(verbs[0]) :]))
        if verbs[0] not in command.commands:
            return [f"{command.name} {verbs[0]}"]
        words = words[words.index(verbs[0]) + 1 :]
        command = command.commands[verbs[0]]
    known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}
    flags = re.findall(r"(?<!\S)--[a-z][a-z-]*", " ".join(words))
    return [f"{command.name} {flag}" for flag in flags if flag not in known]


def test_every_command_of_a_console_block_is_known(root: Path) -> None:
    found = {name: set(shown(text)) for name, text in pages(root).items()}
    everywhere = set().union(*found.values())
    assert len(everywhere) > 40
    assert set().union(*(found[name] for name in found.keys() - on_their_own(root))) - set(SHOWN) == set()
    assert set(SHOWN) - everywhere == set()


def test_every_block_of_sh_is_known(root: Path) -> None:
    found = {(name, one.splitlines()[0]) for name, text in pages(root).items() for one in blocks(text, "sh", "bash")}
    known = {one for one in found for page, line in BLOCKS if one[0] == page and one[1].startswith(line)}
    assert {one for one in found - known if one[0] not in on_their_own(root)} == set()
    assert len(known) == len(BLOCKS)


def test_what_is_said_to_run_them_is_there(root: Path) -> None:
    for command, where in (*SHOWN.items(), *BLOCKS.items(), *PAGES.items()):
        assert where.startswith("not run: ") or (root / where).is_file(), command


def test_every_verb_and_option_exists(root: Path) -> None:
    wrong, seen = [], 0
    for name, text in pages(root).items():
        if name == "CONTRIBUTING":  # whose examples are verbs that are not there yet, see test_contributing.py
            continue
        within = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        shells = blocks(text, "console", "sh", "bash")
        lines = [line for block in shells for line in block.splitlines()]
        for line in (*within, *lines):
            ours = _OURS.match(line.removeprefix("$ "))
            if ours:
                seen += 1
                wrong += [f"{name}: {one}" for one in mistakes(ours[0])]
    assert wrong == []
    assert seen > 100


def test_every_policy_is_explained(root: Path) -> None:
    page = (root / "docs/how-to/policy.md").read_text()
    assert [row["policy"] for row in described() if f"`{row['policy']}" not in page] == []


def test_every_verb_over_ssh_is_explained(root: Path) -> None:
    page = (root / "docs/how-to/read-history.md").read_text()
    assert [verb for verb in VERBS if f"| `{verb}" not in page] == []


def test_a_mistake_would_be_seen() -> None:
    assert mistakes("charity nodes add NAME KEY.pub --rolle auditor") == ["add --rolle"]
    assert mistakes("fedssh bob jion invitation.json") == ["bob jion"]
    assert mistakes("fedssh bob join invitation.json --via=socks5://…") == []

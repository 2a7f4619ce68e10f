"""The verbs for reading, as the door serves them: what each is for, and its form."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Verb = tuple[dict[str, bool | str], int, str, dict[str, str]]

WORD, WORDS = "word", "words"  # what an option takes beside a number: a text; one, and more of them if repeated

# verb: (option: whether it takes a number, how many numbers follow, the form, what `help` says of each way to ask)
VERBS: dict[str, Verb] = {
    "history": (
        {"--json": False, "--csv": False, "--export": False, "--follow": False, "--after": True, "--last": True,
         "--round": True, "--since": WORD, "--site": WORDS, "--event": WORDS}, 0,
        "history [--json|--csv] [--last N] [--since WHEN] [--site NAME] [--event NAME] [--after SEQ] [--follow] | "
        "history --export [--last N] [--after SEQ] [--follow | --round SECONDS]",
        {"history [--last N]": "every event: who sent what, what it claimed, what it scored, the verdict and why",
         "history --since WHEN": "from then on: 2026-11-26, 2026-11-26T10:00 (UTC), or 30m, 2h, 3d ago",
         "history --site NAME --event NAME": "only of these; NAME,NAME or the option again for several",
         "history --follow": "those and each event as it happens, until you leave; with --json one object a line",
         "history --csv": "the same for a spreadsheet",
         "history --export [--after SEQ]": "the signed records themselves, one JSON line each; also with --follow"},
    ),
    "show": ({"--json": False}, 1, "show [--json] N", {"show N": "everything record N says"}),
    "diff": ({"--json": False}, 2, "diff [--json] A B", {"diff A B": "what changed from record A to record B"}),
    "best": ({"--json": False}, 0, "best [--json] [N]",
             {"best": "the current model: where it comes from and what it scores"}),
    "tags": ({"--json": False, "--history": False}, 0, "tags [--json] [--history]",
             {"tags [--history]": "what models are called, since when, by whom and why"}),
    "scores": ({"--json": False}, 0, "scores [--json]",
               {"scores": "what each release scores at the sites, where that was agreed"}),
    "privacy": ({"--json": False}, 0, "privacy [--json]",
                {"privacy": "what each site has spent of its privacy, and what the next round costs it"}),
    "sites": ({"--json": False}, 0, "sites [--json]",
              {"sites": "what each site sent and brought, and which of them to look at"}),
    "nodes": ({"--json": False}, 0, "nodes [--json]", {"nodes": "the sites and auditors, and what each has sent"}),
    "status": ({"--json": False}, 0, "status [--json]", {"status": "where the federation stands"}),
    "report": ({}, 0, "report > FILE.html",
               {"report > FILE.html": "one page for a browser: charts, tables, the history; it checks itself"}),
    "verify": ({"--json": False}, 0, "verify [--json]",
               {"verify": "check every hash, link and signature of the history"}),
    "help": ({"--json": False}, 0, "help [--json]", {"help": "this page"}),
}  # fmt: skip

OPTIONAL = {"best": 1}  # how many numbers more may follow

_REST = """
Each but report also with --json. For N, A and B also the name of a model, as tags shows it, or best.

Sites further have, for their programs or by hand:
scp -O FILE.bundle HOST:           send one bundle
verdict [--wait SECONDS] ID        the signed verdict on it
release [--after SEQ] [--wait SECONDS] > FILE.bundle    the newest release
layers ID > FILE.bundle            layers of a site that are sealed for sites alone
channel                            bytes to the judge and back, while a turn is on

Exit codes: 0 done, 1 the door failed, 2 not a verb, 3 refused, 4 nothing yet or try again later
Example: ssh HOST history --last 20 --follow
"""


def help_text() -> str:
    """What `help` prints."""
    ways = [way for _, _, _, told in VERBS.values() for way in told.items()]
    return "".join(f"{asked:<34} {told}\n" for asked, told in ways) + _REST


def help_value() -> dict[str, str]:
    """The verbs with their forms, for programs."""
    return {verb: form for verb, (_, _, form, _) in VERBS.items()}

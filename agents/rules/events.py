"""The records of a federation's history: what each kind says, and what it is written as.

    record     canonical JSON {"sequence":n,"previous":hex,"event":name,"time":…, the event's own members}

A kind is a class with a `name`; `EVENTS` has them all, and docs/reference/formats.md is made from it.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedssh.errors import LedgerError
from fedssh.forms import canonical
from fedssh.rules.masking import Advert, Answer, Shares
from fedssh.rules.metrics import gain
from fedssh.rules.standing import Standing
from fedssh.rules.typed import ABSENT, Absent, Typed, known, said

START = "0" * 64
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
MEASURES = ("accuracy", "mae")  # of which a site tells one
_FOUND = (
    "Of what was accepted under `parameter-free-ladder`: by how much the main metric had to be better, the standard "
    "error of the difference to the current model."
)
HEAD = ("sequence", "previous", "event", "time")

Metrics = Mapping[str, Any]  # name: number, null where it is undefined, or a list; see `models.score`
EVENTS: dict[str, type[Event]] = {}


@dataclass(frozen=True)
class Blob(Typed):
    """The bytes of a file."""

    sha256: str = said("Their SHA-256, in hexadecimal.")
    size: int = said("Their number.")


@dataclass(frozen=True)
class Local(Typed):
    """What the trainer measured on the site's own validation split: the loss, and one of the others."""

    loss: float = said("The loss.")
    accuracy: float | Absent = said("The accuracy, in 0..1.", absent=True)
    mae: float | Absent = said("Of a regression: the mean absolute error, in the target's own units.", absent=True)

    @classmethod
    def of(cls, measure: str, loss: float, value: float) -> Local:
        """What was measured beside the loss, by the name of the metric."""
        found: dict[str, Any] = {measure: value}
        return cls(loss=loss, **found)

    @classmethod
    def read(cls, value: object, where: str) -> Local:
        """As of any `Typed`.

        Raises:
            LedgerError: Also where not exactly one of the others is there.
        """
        found = super().read(value, where)
        if why := found.objection():
            raise LedgerError(f"{where} {why}")
        return found

    def objection(self) -> str:
        """What is wrong with it, as the end of a sentence; empty when nothing is."""
        there = [name for name in MEASURES if getattr(self, name) is not ABSENT]
        if len(there) == 1:
            return ""
        return "says both accuracy and mae" if there else "lacks 'accuracy'"

    @property
    def measure(self) -> str:
        """What was measured beside the loss."""
        return "accuracy" if self.mae is ABSENT else "mae"

    @property
    def value(self) -> float:
        """How much of it there was."""
        return float(known(getattr(self, self.measure), math.nan))

    @property
    def gain(self) -> float:
        """The same so that higher is better."""
        return gain(self.measure, self.value)


@dataclass(frozen=True)
class Measured(Typed):
    """What a release scored on a site's own validation images."""

    loss: float = said("The loss.")
    accuracy: float = said(
        "The accuracy, in 0..1: by the release's threshold where it has one, else of the most probable."
    )
    balanced_accuracy: float = said("The mean recall of the classes that there are, likewise.")


@dataclass(frozen=True, kw_only=True)
class Work(Typed):
    """What went through the channel in a turn under `split`, as the coordinator counted it."""

    steps: int = said("Steps of training.")
    images: int = said("Images in them, each as often as it was trained on.")
    received: int = said("Bytes that came from the site, sealed.")
    sent: int = said("Bytes that went to it.")
    seconds: float = said("From the first step to the last.")


@dataclass(frozen=True, kw_only=True)
class Spent(Typed):
    """What a session cost a site's privacy, and what it has spent in all: its word, see `rules.privacy`."""

    unit: str = said("Of what one more or less is hidden: `image` or `patient`.")
    sampling: str = said("`poisson`: each unit comes into a step by itself.")
    clip: float = said("The longest gradient of a unit.")
    noise: float = said("The noise's deviation, in units of `clip`.")
    rate: float = said("The probability with which a step takes a unit.")
    steps: int = said("Steps of this session.")
    delta: float = said("With which probability epsilon need not hold.")
    spent: float = said("Epsilon of all that the site has trained, this session included.")
    next: float = said("The same after one more session like this one.")
    budget: float = said("The most that the site spends.")


class Event(Typed):
    """What a record says, beside its number, its time and the record before it."""

    name: ClassVar[str] = "unknown"

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            EVENTS[cls.name] = cls


@dataclass(frozen=True, kw_only=True)
class Genesis(Event):
    """The beginning: what was agreed, and the first model."""

    name = "genesis"

    federation: str = said("Its name.")
    spec: Mapping[str, Any] = said(
        "The architecture: `name`, `input`, its own parameters, and `classes`; or `task` and `targets`, see below."
    )
    class_names: tuple[str, ...] | Absent | None = said(
        "What its classes, or targets, are called, in label order.", absent=True
    )
    plan: Mapping[str, Any] = said("The training plan that every release repeats.")
    policy: str = said("How models become one, with every option written out.")
    gate: str | Absent = said(
        "`on`, `off`, `ladder` or `parameter-free-ladder`; a federation that began without one has none.", absent=True
    )
    margin: float | Absent = said(
        "The gate's margin, in units of the main metric; 0 where it finds one for each candidate.", absent=True
    )
    schedule: str = said("`free`, `relay` or `rounds`.")
    sessions: int | None = said("How many sessions each site trains, or how many rounds; null is without end.")
    rates: Mapping[str, Any] | Absent | None = said(
        "`submissions_per_hour` and `invalid_per_hour` of each site; 0, null or missing is no limit.", absent=True
    )
    coordinator: str | Absent = said("Her public key, one OpenSSH line; missing without processes.", absent=True)
    architecture: str | Absent = said("SHA-256 of the canonical spec.", absent=True)
    model: Blob = said("The first model's file.")
    table: Mapping[str, Any] | Absent = said(
        "Of a table of features: the `target`, and the `columns` with their figures, in the network's order.",
        absent=True,
    )
    network: Mapping[str, Any] | Absent = said(
        "Of a network that does not come with fedssh: `sha256` of its `lines`, these or their `marks`, and `keras`.",
        absent=True,
    )
    metrics: Metrics = said("What it scored on the holdout.")
    examples: int = said("How many of the coordinator's images it was trained on.")
    seed: int = said("Of random weights, the order of training, and the draw of rounds.")
    epochs: int | Absent = said("For how many epochs; 1 where it is missing.", absent=True)
    holdout: Mapping[str, Any] | Absent = said(
        "The holdout: `examples`, and the `sha256` of its images and labels.", absent=True
    )
    decision: Mapping[str, Any] | Absent = said(
        "What is found on the holdout beside the scores: `threshold`, a rule, and `temperature`, true; without it "
        "an image is called what is most probable.",
        absent=True,
    )
    site_scores: str | Absent = said(
        "`on`: each site says what every release that it takes scores on its own validation images.", absent=True
    )
    evidence: str | Absent = said(
        "`on`: the end of a round tells `length` and `cosine` of each update in its result.", absent=True
    )
    weights: Mapping[str, Any] | Absent = said(
        "Given weights that it began from: the file's `sha256`, `tensors` taken, and `of` how many.", absent=True
    )


@dataclass(frozen=True, kw_only=True)
class SiteAdded(Event):
    """Somebody was enrolled."""

    name = "site-added"

    site: str = said("Their name.")
    role: str = said("`site` trains, `auditor` reads.")
    key: str = said("Their public key, one OpenSSH line.")


@dataclass(frozen=True, kw_only=True)
class SiteRevoked(Event):
    """Somebody's enrolment ended."""

    name = "site-revoked"

    site: str = said("Their name.")
    reason: str = said("Why, in the operator's words.")


@dataclass(frozen=True, kw_only=True)
class Verdict(Event):
    """What was decided about a submission."""

    site: str = said("Who sent it.")
    submission: str | Absent = said("Its id.", absent=True)
    session: int = said("The session that it came out of.")
    epoch: int = said("The epoch, from 1; of a report, how many there were.")
    examples: int = said("How many images the site trains on; 0 under masks.")
    builds_on: int | Absent = said("The record of the release that the session started from.", absent=True)
    claim: Local | Absent | None = said("What the site measured; null where privacy or masks are agreed.", absent=True)
    model: Blob | None = said("The model's file: what became current, else what was sent; null of a report.")
    architecture: str | Absent | None = said("SHA-256 of the canonical spec; null of a report.", absent=True)
    metrics: Metrics | None = said("What it scored on the holdout; null where nothing was scored, or may be told.")
    against: int | Absent = said("The record that had made the current model current.", absent=True)
    current_metrics: Metrics = said("What that one scored.")
    reason: str = said("Why.")
    candidate: Blob | Absent = said(
        "What was sent, under a policy that mixes; under `split`, the site's layers.", absent=True
    )
    share: float | Absent | None = said("Its share in the model; null where that may not be told.", absent=True)
    staleness: int | Absent = said("How often others had changed the current model meanwhile.", absent=True)
    margin: float | Absent = said(_FOUND, absent=True)
    privacy: Spent | Absent = said("Where privacy is agreed: what the site has spent, by its word.", absent=True)
    base: Blob | Absent = said(
        "What the step starts from that was added, if it is not the current model: the release's model, or what was "
        "last taken of the same session.",
        absent=True,
    )
    slots: tuple[int, ...] | Absent = said(
        "The records whose steps waited and are in the mean with this one's, ascending, under a policy that gathers.",
        absent=True,
    )
    work: Work | Absent = said("Under `split`: what went through the channel in the turn.", absent=True)
    state: tuple[Blob, ...] | Absent = said(
        "Under `split`, of what became current: files of the optimizer's state, of the coordinator's layers and of "
        "the site's.",
        absent=True,
    )


@dataclass(frozen=True, kw_only=True)
class Accepted(Verdict):
    """A submission whose model became the current one."""

    name = "accepted"

    model: Blob = said("The file of the model that became current.")


@dataclass(frozen=True, kw_only=True)
class Refused(Verdict):
    """A submission or a report that changes nothing."""

    name = "refused"


@dataclass(frozen=True, kw_only=True)
class Counted(Verdict):
    """An update that was taken into the open round."""

    name = "counted"

    model: Blob = said("The update's file.")
    round: int = said("The round's number.")


@dataclass(frozen=True, kw_only=True)
class Invalid(Event):
    """A bundle that could not be judged."""

    name = "invalid"

    site: str = said("In whose inbox it lay.")
    submission: str | None = said("Its id, where one could be read.")
    bundle: str | None = said("SHA-256 of what arrived.")
    reason: str = said("What is wrong with it.")


@dataclass(frozen=True, kw_only=True)
class Garbage(Event):
    """Bundles without a readable id, dropped above the rate of invalid ones."""

    name = "garbage"

    site: str = said("In whose inbox they lay.")
    count: int = said("How many.")
    seconds: float = said("In how many seconds.")
    reason: str = said("Why.")


@dataclass(frozen=True, kw_only=True)
class Report(Event):
    """A site's session is over."""

    name = "report"

    site: str = said("Whose.")
    submission: str = said("The report's id.")
    session: int = said("Its number, from 1.")
    epochs: int = said("How many there were.")
    checkpoints: int = said("How many models it sent.")
    examples: int = said("How many images the site trains on; 0 under masks.")
    builds_on: int = said("The record of the release that it started from.")
    metrics: Local | None = said("What the last of them scored at the site; null where there was none, or under masks.")
    passed: bool | Absent = said("true: no session, for nothing was new to train on; its turn passes.", absent=True)


@dataclass(frozen=True, kw_only=True)
class Scored(Event):
    """A site said what a release scores there."""

    name = "scored"

    site: str = said("Whose.")
    submission: str = said("The message's id.")
    builds_on: int = said("The record of the release.")
    examples: int = said("On how many validation images.")
    metrics: Measured = said("What it scored there.")


@dataclass(frozen=True, kw_only=True)
class Masks(Event):
    """What a site says so that updates are summed under masks: one of these, or an answer with the next advert."""

    name = "masks"

    site: str = said("Whose.")
    submission: str = said("The message's id.")
    builds_on: int = said("The record of the newest release that the site had seen.")
    advert: Advert | Absent = said("Its keys for a round that has not opened yet.", absent=True)
    shares: Shares | Absent = said("Of its secrets, for the sites of the open round.", absent=True)
    agreed: str | Absent = said(
        "SSHSIG by the site's key over the canonical JSON of `arrived`, `partners` and `roster`, as it was told them, "
        "namespace `agreed@fedssh`.",
        absent=True,
    )
    answer: Answer | Absent = said("What takes the masks off the sum of the round that is closing.", absent=True)
    late: tuple[str, ...] | Absent = said("What of these came too late, so nothing of it is here.", absent=True)


@dataclass(frozen=True, kw_only=True)
class RoundOpened(Event):
    """A round opened for some of the sites."""

    name = "round-opened"

    round: int = said("Its number, from 1.")
    sites: tuple[str, ...] = said("Who was drawn, in order of enrolment.")
    reason: str = said("How many, and when it closes.")
    roster: str | Absent = said("Under masks: SHA-256 of these sites' adverts, by name of the sites.", absent=True)
    groups: tuple[tuple[str, ...], ...] | Absent = said(
        "Under masks with several groups: the sites of each, by name; each is summed by itself.", absent=True
    )


@dataclass(frozen=True, kw_only=True)
class RoundExtended(Event):
    """Too few updates came in time, so every site may send one."""

    name = "round-extended"

    round: int = said("Its number.")
    sites: tuple[str, ...] = said("Who may send one now.")
    reason: str = said("How many came.")


@dataclass(frozen=True, kw_only=True)
class RoundPartners(Event):
    """It is settled who masks with whom."""

    name = "round-partners"

    round: int = said("The round's number.")
    sites: tuple[str, ...] = said("Who gave shares in time, by name.")
    reason: str = said("How many.")


@dataclass(frozen=True, kw_only=True)
class RoundClosing(Event):
    """It is settled whose updates are in the sum; who masked may now say what takes the masks off it."""

    name = "round-closing"

    round: int = said("The round's number.")
    sites: tuple[str, ...] = said("Whose updates came, by name.")
    reason: str = said("How many.")


@dataclass(frozen=True, kw_only=True)
class RoundAgreed(Event):
    """Enough sites have signed who masked and who came, so those who see the same may answer."""

    name = "round-agreed"

    round: int = said("The round's number.")
    sites: tuple[str, ...] = said("Who has signed, by name.")
    reason: str = said("How many.")


@dataclass(frozen=True, kw_only=True)
class Part(Typed):
    """One site's part in a round's result."""

    site: str = said("Whose.")
    record: int = said("The record that counted its update.")
    examples: int = said("How many images it was trained on; 0 under masks, where only the sum is known.")
    share: float | None = said("How much of it is in the result; null when there is none, or nobody knows.")
    length: float | Absent = said(
        "The Euclidean norm of its difference from the current model, of all tensors; four digits.", absent=True
    )
    cosine: float | Absent | None = said(
        "The median of the cosines between that difference and the others'; four digits, null without a direction.",
        absent=True,
    )


@dataclass(frozen=True, kw_only=True)
class GroupSum(Typed):
    """What came of a group of sites whose updates are summed under masks by themselves."""

    sites: tuple[str, ...] = said("Whose updates are in its sum, by name.")
    examples: int | None = said("How many images these were trained on; null where no sum came out.")
    share: float = said("How much of its mean is in the result; 0 where it did not hold, or none came out.")
    metrics: Metrics | None = said("What its mean scored on the holdout; null without one, and under a ladder.")


@dataclass(frozen=True, kw_only=True)
class RoundClosed(Event):
    """A round is over."""

    round: int = said("Its number.")
    metrics: Metrics | None = said(
        "What its result scored on the holdout; null without one, or where it may not be told."
    )
    current_metrics: Metrics = said("What the current model scored.")
    against: int = said("The record that had made that one current.")
    updates: tuple[Part, ...] = said("By name of their sites.")
    missing: tuple[str, ...] = said("Who might have sent one and did not.")
    reason: str = said("Why.")
    margin: float | Absent = said(_FOUND, absent=True)
    examples: int | Absent = said("Under masks, of a sum: how many images all of them were trained on.", absent=True)
    groups: tuple[GroupSum, ...] | Absent = said("Under masks with several groups: what came of each.", absent=True)


@dataclass(frozen=True, kw_only=True)
class RoundAccepted(RoundClosed):
    """A round whose result became the current model."""

    name = "round-accepted"

    model: Blob = said("The result's file.")
    state: tuple[Blob, ...] = said("Files of the server optimizer's state: none, one or two.")


@dataclass(frozen=True, kw_only=True)
class RoundRefused(RoundClosed):
    """A round that changes nothing."""

    name = "round-refused"


@dataclass(frozen=True, kw_only=True)
class Released(Event):
    """The current model was handed on."""

    name = "release"

    of: int = said("The record that made it current.")
    model: Blob = said("Its file.")
    metrics: Metrics = said("What it scored on the holdout.")
    federation: Standing = said("Where the federation stands.")
    recipients: tuple[str, ...] = said("Fingerprints of the keys that it is sealed for.")


@dataclass(frozen=True, kw_only=True)
class TurnPassed(Event):
    """A site lost its turn in a relay."""

    name = "turn-passed"

    site: str = said("Which.")
    reason: str = said("Why.")


@dataclass(frozen=True, kw_only=True)
class RolledBack(Event):
    """The operator went back to an earlier model."""

    name = "rollback"

    to: int = said("The record that had made it current.")
    model: Blob = said("Its file.")
    metrics: Metrics = said("What it had scored.")
    reason: str = said("Why, in the operator's words.")


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The federation is over; the current model stays released."""

    name = "finished"

    reason: str = said("Why.")


@dataclass(frozen=True, kw_only=True)
class Reopened(Event):
    """The federation goes on."""

    name = "reopened"

    sessions: int | None = said("How many sessions each site trains from the beginning, or how many rounds.")
    reason: str = said("Why, in the operator's words.")


@dataclass(frozen=True, kw_only=True)
class Tagged(Event):
    """The model of a record was given a name, which it keeps until another one is given it, or it is taken away."""

    name = "tagged"

    of: int = said("The record that had made it current.")
    tag: str = said("The name: 1 to 64 of `a-z0-9._-`, a letter first; not `best`.")
    by: str = said("Who gave it, in their own words.")
    note: str | Absent = said("Why, likewise.", absent=True)


@dataclass(frozen=True, kw_only=True)
class Untagged(Event):
    """A name was taken away; no model has it any more."""

    name = "untagged"

    tag: str = said("The name.")
    by: str = said("Who took it away, in their own words.")
    note: str | Absent = said("Why, likewise.", absent=True)


@dataclass(frozen=True, kw_only=True)
class Tested(Event):
    """A model was scored on the coordinator's test split, which no model is chosen by."""

    name = "tested"

    of: int = said("The record that had made it current.")
    split: str = said("`test`.")
    examples: int = said("How many images or rows there were.")
    metrics: Metrics = said("What it scored on them.")
    curve: tuple[tuple[float, ...], ...] | Absent = said(
        "With two classes: points of its receiver operating characteristic, each a probability of class 1, the share "
        "of class 0 that is called so from there on, and the share of class 1.",
        absent=True,
    )


@dataclass(frozen=True, kw_only=True)
class Unknown(Event):
    """What a newer program wrote; it changes nothing here."""


@dataclass(frozen=True)
class Record:
    """One event, as signed."""

    sequence: int
    hash: str
    text: bytes
    signature: str

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """What the record says; check with `ledger.verify` before trusting it."""
        fields = json.loads(self.text)
        if not isinstance(fields, dict):
            raise LedgerError(f"record {self.sequence} is not a JSON object")
        return fields

    @functools.cached_property
    def said(self) -> Event:
        """What the record says, by its kind.

        Raises:
            LedgerError: A member is missing or of another type.
        """
        own = {name: value for name, value in self.fields.items() if name not in HEAD}
        return EVENTS.get(self.event, Unknown).read(own, f"record {self.sequence}")

    @property
    def event(self) -> str:
        """What happened, such as genesis, accepted or release: a name in `EVENTS`, unless a newer version wrote it."""
        return str(self.fields.get("event"))

    @property
    def time(self) -> str:
        """When, in UTC with milliseconds.

        Raises:
            LedgerError: It is written in another way, which every reader may take for another time, or is none.
        """
        time = self.fields.get("time")
        if not isinstance(time, str) or not _TIME.fullmatch(time):
            raise LedgerError(f"the time of record {self.sequence} is {str(time)[:40]!r}, which is not of its form")
        try:
            datetime.datetime.fromisoformat(time)
        except ValueError:
            raise LedgerError(f"the time of record {self.sequence} is {time}, which is no time") from None
        return time

    def line(self) -> bytes:
        """The record as one line of the export. A verdict is this line."""
        text = self.text.decode()
        return (
            canonical({"sequence": self.sequence, "hash": self.hash, "record": text, "signature": self.signature})
            + b"\n"
        )

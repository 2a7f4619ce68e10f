"""What a federation agrees on when it begins: every term with what it may be, its default and its meaning. Pure.

This is the only place where they stand. From it come the flags of `charity init`, what a site checks of a training plan
(`plan`), what an experiment may say (`experiments.definition.settings`), and the record that a federation begins with.
Policies are loaded when one is read, since `--help` reads none.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedssh.errors import SettingsError
from fedssh.forms import Expected, Form, checked, number, one_of, text, whole, yes_or_no
from fedssh.rules import thresholds
from fedssh.rules.gate import MARGIN, Gate
from fedssh.rules.metrics import CLASSES, FIRST, IN_UNITS, METRICS, OF_TASK, task_of
from fedssh.rules.privacy import PRIVACY, check_privacy
from fedssh.rules.unlabelled import UNLABELLED
from fedssh.rules.vocabulary import GATES, PARAMETER_FREE

if TYPE_CHECKING:
    from fedssh.rules.policies import Policy

SCHEDULES = ("free", "relay")  # where sites train in rounds, "rounds" is the only one
BY_CLASS = ("balanced_accuracy", "f1")  # by these a site, too, tells what improved; by the others, by accuracy
RATE_SCHEDULES = ("constant", "step", "cosine")
LOCALS = ("none", "batchnorm")
PRECISIONS = ("float32", "mixed")
AUGMENTS = ("flips", "shifts", "rotations", "contrast")
DECAYING = ("adamw", "sgd")  # where a decay of weights is no part of the gradient
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "adamax", "nadam")
TASKS = tuple(OF_TASK)
EPOCHS = {"improved": 100, "session": 1}  # what sites may publish, and the most epochs of a session unless agreed
RATES = ("submissions_per_hour", "invalid_per_hour")
# Terms of training that came later. They stand in a plan only where they are not as by default, so that a plan without
# them is the same bytes as ever; `written_loss` keeps programs that do not know them from training without them.
LATER = (
    "class_weights",
    "learning_rate_schedule",
    "warmup",
    "clip_norm",
    "weight_decay",
    "augment",
    "local",
    "site_rates",
    "precision",
    "calibrate",
    "unlabelled",
    "privacy",
)
WHOLE = (
    "proximal", "class_weights", "clip_norm", "local", "site_rates", "precision", "calibrate", "unlabelled", "privacy",
)  # fmt: skip
DECIDING = ("threshold", "temperature", "site_scores", "evidence")  # terms that stand in genesis beside the plan
_POLICIES = "`charity policies` lists policies and their options"


def term(default: Any, form: Form[Any], help: str, metavar: str | None = None, hint: str | None = None) -> Any:
    """A field of `Terms`, as `settings.load` reads it.

    Args:
        default: What is agreed when nobody says; None is no end, or what goes with the policy.
        form: What it may be.
        help: What it means, in a line.
        metavar: How `--help` shows the value.
        hint: Where to look when it is wrong.
    """
    metadata = {"form": form, "help": help, "metavar": metavar, "hint": hint}
    return dataclasses.field(default=default, metadata=metadata)


def _policy(value: Any) -> str:
    from fedssh.rules.policies import read_policy

    words = text(value).strip()
    read_policy(words)
    return words


def _threshold(value: Any) -> str:
    """A rule, in one way of writing it."""
    return thresholds.read_rule(value).text


def _warmup(value: Any) -> int | str:
    """Steps, or `N epochs`."""
    found = re.fullmatch("([1-9][0-9]{0,5}) ?epochs?", value) if isinstance(value, str) else None
    if found:
        return f"{found[1]} epochs"
    try:
        return whole(0)(value)
    except Expected:
        raise Expected("expected a whole number of steps, or such as '2 epochs'") from None


def _read_warmup(written: str) -> int | str:
    return int(written) if written.isascii() and written.isdecimal() else written


def _augment(value: Any) -> str:
    """Kinds with commas between, in one order."""
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else []
    if words == ["none"]:
        return "none"
    if not words or not set(words) <= set(AUGMENTS):
        raise Expected(f"expected none, or some of {','.join(AUGMENTS)}")
    return ",".join(kind for kind in AUGMENTS if kind in words)


@dataclass(frozen=True)
class Terms:
    """What is agreed, as it is asked for; `agree` writes out what is left open."""

    name: str = term("fedssh", text, "The federation's name.")
    schedule: str = term("free", one_of(*SCHEDULES), "All sites at once, or one at a time.")
    sessions: int | None = term(None, whole(1), "Sessions per site, or rounds; without it, no end.", "N")
    policy: str = term("gather", Form(_policy), "How models become one: `charity policies`.", "POLICY", _POLICIES)
    gate: str = term("on", one_of(*GATES), f"The gate: {', '.join(GATES)}.", "GATE")
    margin: float = term(0.01, MARGIN, "How far below the best a release may score; ladder: above the current.", "X")
    metric: str | None = term(None, one_of(*METRICS), "What the policy compares first.  [accuracy; mae in regression]")
    publish: str | None = term(None, one_of(*EPOCHS), "What a site sends of a session.  [improved; session in rounds]")
    batch_size: int = term(64, whole(1), "Images per training step.", "N")
    epochs: int | None = term(None, whole(1), "Most epochs of a session.  [100; 1 in rounds]", "N")
    patience: int = term(10, whole(1), "Epochs without improvement that end a session.", "N")
    optimizer: str = term("adam", one_of(*OPTIMIZERS), "A Keras optimizer.", "NAME")
    learning_rate: float = term(0.001, number(above=0), "Its learning rate.", "X")
    momentum: float = term(0.0, number(least=0, below=1), "Momentum of sgd.", "X")
    proximal: float = term(0.0, number(least=0), "FedProx: the pull towards the release.", "MU")
    class_weights: str = term("none", one_of("none", "balanced"), "Weigh rare classes up, by each site's own counts.")
    learning_rate_schedule: str = term("constant", one_of(*RATE_SCHEDULES), "The learning rate over a session.")
    warmup: int | str = term(0, Form(_warmup, _read_warmup), "Steps in which the rate rises, or 'N epochs'.", "STEPS")
    clip_norm: float = term(0.0, number(least=0), "Longest gradient of a step, all weights; 0: any.", "X")
    weight_decay: float | None = term(None, number(least=0), "Decay of weights, with adamw or sgd.", "X")
    augment: str = term("none", Form(_augment), f"Change images: {','.join(AUGMENTS)}.", "KINDS")
    local: str = term("none", one_of(*LOCALS), "In rounds: batch normalisation stays (FedBN).")
    site_rates: float = term(1.0, number(above=0, most=1), "Least part of rate and batch size a site may take.", "X")
    precision: str = term("float32", one_of(*PRECISIONS), "mixed: layers compute in bfloat16.")
    calibrate: str = term("none", one_of("none", "labels"), "Calibrate the loss for each site's own labels.")
    unlabelled: str = term("none", UNLABELLED, "Learn from images without labels: fixmatch, autoencoder.", "HOW")
    privacy: Mapping[str, Any] | None = term(
        None, PRIVACY, "Hide units: unit=image|patient,clip=C,noise=S,delta=D,budget=EPS[,rate=Q].", "PRIVACY"
    )
    threshold: str = term("0.5", Form(_threshold), "Or youden, sensitivity>=X, specificity>=X.", "RULE")
    temperature: bool = term(False, yes_or_no, "Find what calibrates probabilities.")
    site_scores: str = term("off", one_of("off", "on"), "Whether sites say what releases score there.")
    evidence: str = term("off", one_of("off", "on"), "Whether rounds tell how updates lie.")
    submissions_per_hour: int = term(600, whole(0), "Bundles of a site that get a record; 0: no limit.", "N")
    invalid_per_hour: int = term(60, whole(0), "Invalid ones among them; 0: no limit.", "N")


FORMS: Mapping[str, Form[Any]] = {field.name: field.metadata["form"] for field in dataclasses.fields(Terms)}


def agree(
    settings: Mapping[str, Any], spec: dict[str, Any], loss: str, class_names: list[str] | None = None
) -> dict[str, Any]:
    """The terms that genesis records and every release repeats.

    Args:
        settings: Those of `Terms`, by name; others are left alone.
        spec: The architecture, checked. Its task says which metrics there are; a margin of one in the target's units is
            agreed as so many of the target's deviations (of several targets, of their mean).
        loss: The loss that fits it.
        class_names: What its classes or targets are called, in label order; None where nobody says.

    Raises:
        SettingsError: A value is out of range, or two do not go together.
    """
    from fedssh.rules.policies import read_policy

    try:
        policy = read_policy(settings["policy"])
    except ValueError as error:
        raise SettingsError(str(error), _POLICIES) from None
    try:
        gate = gate_of(settings["gate"], float(settings["margin"]))
    except ValueError as error:
        raise SettingsError(str(error), "leave --margin out, or take a step above 0") from None
    terms = _of_task(_checked(settings), task_of(spec))
    _check_gate(gate, terms, task_of(spec))
    if terms.metric in IN_UNITS:
        units = sum(one["deviation"] for one in spec["targets"]) / len(spec["targets"])
        gate = Gate(gate.kind, float(f"{gate.margin * units:.6g}"), terms.metric)
    try:
        schedule = schedule_of(terms.schedule, policy)
    except ValueError as error:
        raise SettingsError(str(error), "leave --schedule out, or take another policy") from None
    if terms.evidence == "on" and not policy.rounds:
        raise SettingsError(f"--evidence is about rounds, and {policy.name} has none", "leave --evidence out")
    if policy.masked and (terms.evidence == "on" or terms.site_scores == "on"):
        name = "evidence" if terms.evidence == "on" else "site-scores"
        raise SettingsError(f"--{name} tells of single sites, and seal=masks hides them", "leave one of the two out")
    if policy.masked and terms.privacy is not None and terms.privacy.get("rate") is None:
        raise SettingsError(
            "--privacy without a rate has each site's account tell how many images it has, and seal=masks hides that",
            "--privacy …,rate=R: as often as R a step takes an image, at every site",
        )
    if terms.privacy is not None and terms.site_scores == "on":
        raise SettingsError(
            "--site-scores tells of images what no noise hides, and there is --privacy", "leave one out"
        )
    decision = thresholds.written(terms.threshold, temperature=terms.temperature)
    _check_decision(decision, spec)
    return {
        "federation": terms.name,
        "spec": spec,
        "class_names": class_names,
        "plan": written_loss(_plan(terms, policy), loss),
        "policy": policy.text,
        "gate": gate.kind,
        "margin": gate.margin,
        "schedule": schedule,
        "sessions": terms.sessions,
        "rates": {name: getattr(terms, name) for name in RATES},
        **({"decision": decision} if decision else {}),
        **({"site_scores": "on"} if terms.site_scores == "on" else {}),
        **({"evidence": "on"} if terms.evidence == "on" else {}),
    }


def least_spec(metric: str | None) -> dict[str, Any]:
    """As much of a spec as `agree` looks at, of the task that a metric belongs to: for who has seen no images."""
    if metric in OF_TASK[CLASSES] or metric is None:
        return {}
    return {"task": next(task for task, names in OF_TASK.items() if metric in names), "targets": [{"deviation": 1.0}]}


def gate_of(kind: str, margin: float = Terms.margin) -> Gate:
    """The gate that is asked for. One that finds its margin takes none, and the default is nobody's word for one.

    Raises:
        ValueError: There is no such gate, or the margin is none of its.
    """
    return Gate(kind, 0.0 if kind == PARAMETER_FREE and margin == Terms.margin else margin)


def schedule_of(wanted: str, policy: Policy) -> str:
    """The schedule that goes with a policy.

    Raises:
        ValueError: The policy has another one.
    """
    if policy.rounds and wanted == "relay":
        raise ValueError(f"the policy {policy.name} trains in rounds, not in a relay")
    if policy.split and not policy.rounds:
        return "relay"
    return "rounds" if policy.rounds else wanted


def publish_of(wanted: str | None, policy: Policy) -> str:
    """What a site sends of a session; None and "" are what goes with the policy.

    Raises:
        ValueError: The policy takes something else.
    """
    once = policy.rounds or policy.split
    publish = wanted or ("session" if once else "improved")
    if once and publish != "session":
        raise ValueError(f"the policy {policy.name} takes one update per {'round' if policy.rounds else 'turn'}")
    return publish


def written_loss(plan: dict[str, Any], loss: str) -> dict[str, Any]:
    """A plan with its loss, which names what is newer in it: `binary_crossentropy with class_weights, metric`.

    A program from before passes over members that it does not know, but takes no loss that it does not know.
    """
    later = [name for name in LATER if name in plan] + (["metric"] if plan.get("metric") in BY_CLASS else [])
    return plan | {"loss": f"{loss} with {', '.join(later)}" if later else loss}


def check_momentum(momentum: float, optimizer: str) -> None:
    """Raise ValueError where an optimizer has no momentum."""
    if momentum and optimizer != "sgd":
        raise ValueError(f"momentum belongs to sgd, not to {optimizer}")


def check_local(local: str, policy: Policy) -> None:
    """Raise ValueError where nothing can stay at the sites.

    A server optimizer steps from the release, and what stays at a site did not begin there.
    """
    if local == "none":
        return
    if not policy.rounds:
        raise ValueError(f"local {local} belongs to policies with rounds, not to {policy.name}")
    if policy.masked:
        raise ValueError(f"local {local} leaves tensors out, and sums under masks are of all")
    if "server" in policy.values:
        raise ValueError(f"local {local} goes with no server optimizer, found {policy.values['server']}")


def check_calibrate(calibrate: str, class_weights: str) -> None:
    """Raise ValueError where the same skew would be corrected twice."""
    if calibrate != "none" and class_weights != "none":
        raise ValueError(f"calibrate {calibrate} goes with no class weights, found {class_weights}")


def check_split(settings: Mapping[str, Any], policy: Policy) -> None:
    """Raise ValueError where what is agreed takes a network in one piece, and the policy has it in two rooms."""
    if not policy.split:
        return
    if policy.for_sites and settings["gate"] != "off":
        raise ValueError("gate off goes with weights=sites: nobody can judge what nobody but sites can open")
    for name in WHOLE:
        if settings[name] != getattr(Terms, name):
            word = name.replace("_", "-")
            raise ValueError(f"{word} takes a network in one piece, and under {policy.name} it is in two rooms")


def check_private(settings: Mapping[str, Any], policy: Policy) -> None:
    """Raise ValueError where privacy is agreed, and with it what is not covered: see `privacy.check_privacy`."""
    check_privacy(settings, vars(Terms()))
    if settings["privacy"] is not None and (not policy.rounds or policy.split):
        raise ValueError(f"privacy belongs to policies with rounds and whole networks, not to {policy.name}")


def later_than(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of `LATER`, what is not as by default."""
    return {name: settings[name] for name in LATER if settings[name] != getattr(Terms, name)}


def check_weight_decay(weight_decay: float | None, optimizer: str) -> None:
    """Raise ValueError where an optimizer has no decay beside the gradient."""
    if weight_decay is not None and optimizer not in DECAYING:
        raise ValueError(f"weight-decay belongs to {' and '.join(DECAYING)}, not to {optimizer}")


def _check_gate(gate: Gate, terms: Terms, task: str) -> None:
    """Check that an image is right or wrong, where it is counted for how many two models differ.

    Raises:
        SettingsError: It is not, or something else is compared.
    """
    if gate.paired and (task != CLASSES or terms.metric != "accuracy"):
        found = f"the metric is {terms.metric}" if task == CLASSES else f"the task is {task}"
        raise SettingsError(
            f"--gate {gate.kind} counts images that one of two models calls rightly: it is for accuracy of classes of "
            f"which one is right, and {found}",
            "--gate ladder takes steps of a --margin, of any metric",
        )


def _check_decision(decision: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Check that there is such a decision in what a network gives.

    Raises:
        SettingsError: It has another number of classes, or no classes at all.
    """
    if decision and spec.get("task"):
        raise SettingsError(
            f"--{next(iter(decision))} is for classes of which one is right, the task is {spec['task']}", "leave it out"
        )
    if "threshold" in decision and (classes := spec.get("classes", 2)) != 2:  # who has seen no images cannot tell
        raise SettingsError(f"--threshold is for two classes, here are {classes}", "leave it out")


def _of_task(terms: Terms, task: str) -> Terms:
    """The terms with the metric that goes with the task where nobody says another.

    Raises:
        SettingsError: What is said belongs to another task.
    """
    if terms.metric not in (None, *OF_TASK[task]):
        other = next(name for name, fitting in OF_TASK.items() if terms.metric in fitting)
        raise SettingsError(
            f"--metric is {terms.metric!r}, which is for the task {other}, and the task is {task}",
            f"--metric {' or '.join(OF_TASK[task])}",
        )
    if task != CLASSES and terms.class_weights != "none":
        raise SettingsError(
            f"--class-weights is {terms.class_weights!r}, but the task is {task}: there are no classes to weigh",
            "leave --class-weights out",
        )
    if task != CLASSES and terms.calibrate != "none":
        raise SettingsError(
            f"--calibrate is {terms.calibrate!r}, but the task is {task}: there are no classes to calibrate for",
            "leave --calibrate out",
        )
    if task != CLASSES and terms.unlabelled != "none":
        raise SettingsError(
            f"--unlabelled is {terms.unlabelled!r}, but the task is {task}: there are no classes to guess",
            "leave --unlabelled out",
        )
    if task != CLASSES and terms.site_scores == "on":
        raise SettingsError(f"--site-scores tells of classes, and the task is {task}", "leave --site-scores out")
    return dataclasses.replace(terms, metric=terms.metric or FIRST[task])


def _checked(settings: Mapping[str, Any]) -> Terms:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Terms):
        value = settings.get(field.name, field.default) if field.name in (*LATER, *DECIDING) else settings[field.name]
        form = FORMS[field.name]
        open_ = value is None and field.default is None
        try:
            values[field.name] = None if open_ else checked(f"--{field.name.replace('_', '-')}", value, form)
        except ValueError as error:
            raise SettingsError(str(error)) from None
    return Terms(**values)


def _plan(terms: Terms, policy: Policy) -> dict[str, Any]:
    try:
        publish = publish_of(terms.publish, policy)
    except ValueError as error:
        raise SettingsError(str(error), "leave --publish out") from None
    try:
        check_momentum(terms.momentum, terms.optimizer)
        check_weight_decay(terms.weight_decay, terms.optimizer)
        check_local(terms.local, policy)
        check_split(vars(terms), policy)
        check_calibrate(terms.calibrate, terms.class_weights)
        check_private(vars(terms), policy)
    except ValueError as error:
        raise SettingsError(f"--{error}", "leave one of the two out") from None
    same = ("batch_size", "patience", "optimizer", "learning_rate", "momentum", "proximal", "metric")
    plan = {name: getattr(terms, name) for name in same} | later_than(vars(terms))
    return plan | {"epochs": terms.epochs or EPOCHS[publish], "publish": publish}

"""The judge: a child process that knows Keras and the coordinator's images, and answers with metrics.

It answers the questions of `protocol`. The images are in memory and the network is built and warm before it says that
it is ready; a score then costs loading the weights and one pass over the images. It ends when its input ends.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import weights
from fedssh.charity.judge import assessing, combining
from fedssh.charity.judge.own_images import to_reading
from fedssh.charity.judge.probe import Probe
from fedssh.charity.judge.scorer import Scorer, fingerprint
from fedssh.charity.judge.starting_weights import read_given
from fedssh.charity.judge.turns import Turns
from fedssh.commands import log_events
from fedssh.errors import AgentError, SettingsError
from fedssh.models import autoencoder, batch_normalisation, get_weights, is_own, likeness, loss_name, set_weights, tasks
from fedssh.models.backend import load_keras
from fedssh.models.data import images
from fedssh.models.data.classes import NamesError
from fedssh.models.data.reading import AS_IT_IS, Reading
from fedssh.models.layout import layout
from fedssh.models.private import objection
from fedssh.models.recipe import balanced
from fedssh.models.training import optimizer_of
from fedssh.rules.label_shares import is_calibrated
from fedssh.rules.policies import read_policy
from fedssh.rules.privacy import Charge, epsilon, read_privacy
from fedssh.split.turn import found as found_cut

_NEVER: AbstractContextManager[Any] = contextlib.nullcontext()


def genesis(
    spec: dict[str, Any],
    data: Path,
    holdout: images.Images,
    seed: int,
    plan: dict[str, Any],
    out: Path,
    epochs: int = 1,
    given: Path | None = None,
    reading: Reading = AS_IT_IS,
    decision: dict[str, Any] | None = None,
    policy: str | None = None,
) -> dict[str, Any]:
    """Make the federation's first model: random or given weights, then epochs on the coordinator's own images.

    Args:
        data: Where the images are; the split `train` is used, unless there are no epochs.
        holdout: What the result is scored on.
        seed: The same seed gives the same model on the same machine.
        plan: Optimizer, learning rate, momentum, batch size, class weights.
        out: The model file to write.
        epochs: How many; 0 takes the weights as they are.
        given: A file with weights for some or all tensors.
        reading: What the images' files do not say.
        decision: What is found on the holdout beside scores.
        policy: How models become one; None where nobody asks.

    Returns:
        `metrics`, `examples` trained on; `network`, what is agreed of one that does not come with fedssh; where the
        loss of the sites is calibrated `label_counts`, how many examples of each class the holdout has; with `given`
        also `weights` for the record and the line `told`, or only `unfit` with the reason why it cannot be used;
        where the network is trained in two rooms `policy`, and with an autoencoder `unlabelled`, with the cut that was
        left open.
    """
    keras = load_keras()
    reading = dataclasses.replace(reading, task=tasks.task_of(spec))
    start: dict[str, Any] = {"network": likeness.recorded(likeness.describe(spec))} if is_own(spec["name"]) else {}
    keras.utils.set_random_seed(seed)
    scorer = Scorer(spec, holdout, decision)
    if plan.get("local", "none") != "none" and not batch_normalisation(scorer.network):
        return {"unfit": f"--local {plan['local']}: {spec['name']} has no batch normalisation"}
    if plan.get("privacy") is not None:
        why = objection(scorer.network)
        try:
            epsilon([Charge(read_privacy(plan["privacy"]).noise, 1.0, 1)], 0.5)
        except SettingsError as error:  # what counts is not installed
            why = f"{error}; {error.hint}"
        if why:
            return {"unfit": f"--privacy: {why}"}
    if policy is not None and read_policy(policy).split:
        try:
            start["policy"] = found_cut(read_policy(policy), scorer.network).text
        except ValueError as error:
            return {"unfit": f"--policy {policy}: {error}"}
    try:
        if (how := autoencoder.found(plan.get("unlabelled", "none"), scorer.network)) != plan.get("unlabelled", "none"):
            start["unlabelled"] = how
    except ValueError as error:
        return {"unfit": f"--unlabelled {plan['unlabelled']}: {error}"}
    if given is not None:
        try:
            found = read_given(given, scorer.shapes, layout(scorer.network))
        except SettingsError as error:
            return {"unfit": str(error)}
        set_weights(scorer.network, get_weights(scorer.network) | found.tensors)
        start |= {"weights": found.record, "told": found.told(str(given))}
    examples = 0
    if epochs:
        train = images.load(data, spec["input"], tasks.number_of(spec), "train", reading)
        examples = len(train)
        optimizer = optimizer_of(plan)
        scorer.network.compile(optimizer=optimizer, loss=loss_name(spec))
        weights_of = None
        if plan.get("class_weights") == "balanced":
            weights_of = dict(enumerate(balanced(train.labels, spec["classes"]).tolist()))
        numbers = tasks.task_of(spec) == tasks.REGRESSION
        labels = tasks.standardised(train.labels, spec) if numbers else train.labels
        scorer.network.fit(
            train.images, labels, batch_size=plan["batch_size"], epochs=epochs, verbose=0, class_weight=weights_of
        )
    if is_calibrated(plan):
        start["label_counts"] = np.bincount(holdout.labels, minlength=spec["classes"]).tolist()
    weights.write_weights(out, get_weights(scorer.network), spec)
    return {"metrics": scorer.score(), "examples": examples} | start


def to_train_on(data: Path, spec: dict[str, Any], reading: Reading) -> images.Images | None:
    """The coordinator's split `train`; None where there is none, as in a federation that begins with given weights."""
    if "train" not in images.splits(data, reading):
        return None
    return images.load(data, spec["input"], tasks.number_of(spec), "train", reading)


def check(scorer: Scorer, probe: Probe, wanted: dict[str, Any]) -> dict[str, Any]:
    """Whether sites can go on from a model in a file. Stored models have their hash as file name, so it names them."""
    current, first = ((Path(wanted[whose]).name, scorer.read(Path(wanted[whose]))) for whose in ("current", "first"))
    return vars(probe.check(scorer.read(Path(wanted["model"])), current, first))


def serve(
    answer: Callable[[dict[str, Any]], dict[str, Any]],
    say: Callable[[dict[str, Any]], None],
    busy: AbstractContextManager[Any] = _NEVER,
) -> None:
    """Answer every line of standard input until it ends.

    Args:
        busy: Held while an answer is computed.
    """
    for line in sys.stdin:
        try:
            with busy:
                found = answer(json.loads(line))
            say(found)
        except OSError as error:
            say({"error": str(error), "errno": error.errno})
        except (AgentError, ValueError, KeyError) as error:
            say({"error": str(error) or type(error).__name__})


def main() -> None:
    """Load everything, say so, and answer."""
    parser = argparse.ArgumentParser(description="The coordinator's judge; started by `charity serve`.")
    parser.add_argument("--data", type=Path, required=True, help="the coordinator's images")
    parser.add_argument("--split", default="val", help="what to score on (val)")
    parser.add_argument("--spec", type=json.loads, required=True, help="the architecture as JSON")
    parser.add_argument("--decision", type=json.loads, help="what to find beside scores, see `rules.thresholds`")
    parser.add_argument("--reading", type=json.loads, default={}, help="class names and white, see `own_images`")
    arguments = parser.parse_args()

    debug = os.environ.get("CHARITY_DEBUG") == "1"
    log_events("charity", os.environ.get("CHARITY_LOG_FORMAT", "text"), debug)

    # Keras and TensorFlow may print; only answers may reach the vault.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(value: dict[str, Any]) -> None:
        print(json.dumps(value, allow_nan=False), file=answers, flush=True)

    spec = arguments.spec
    try:
        reading = dataclasses.replace(to_reading(arguments.reading), task=tasks.task_of(spec))
        holdout = images.load(arguments.data, spec["input"], tasks.number_of(spec), arguments.split, reading)
    except NamesError as error:
        say({"error": f"{error}; {error.hint}"})
        return
    except (OSError, ValueError) as error:
        say({"error": str(error)})
        return
    load_keras()
    scorer: Scorer | None = None
    probes: dict[str, Probe] = {}
    busy = threading.RLock()
    turns = Turns(spec, busy)

    def probe_for(plan: dict[str, Any]) -> Probe:
        """A federation has one plan, so there is one."""
        own = functools.partial(to_train_on, arguments.data, spec, reading)
        return probes.setdefault(json.dumps(plan), Probe(spec, plan, own))

    def load(split: str) -> images.Images | None:
        """Another split of the same images; None where there is none."""
        if split not in images.splits(arguments.data, reading):
            return None
        return images.load(arguments.data, spec["input"], tasks.number_of(spec), split, reading)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal scorer
        if wanted := request.get("genesis"):
            given = Path(wanted["weights"]) if wanted.get("weights") else None
            return genesis(
                spec, arguments.data, holdout, wanted["seed"], wanted["plan"], Path(wanted["out"]),
                wanted.get("epochs", 1), given, reading, arguments.decision, wanted.get("policy"),
            )  # fmt: skip
        scorer = scorer or Scorer(spec, holdout, arguments.decision)
        if "turn" in request:
            return turns.open(request["turn"])
        if "closed" in request:
            return turns.close(request["closed"])
        if "welcome" in request:
            return turns.welcome(request["welcome"])
        if "turned" in request:
            return turns.turned(request["turned"])
        if "join" in request:
            return turns.join(scorer, request["join"])
        if "mix" in request:
            return combining.mix(scorer, request["mix"])
        if "round" in request:
            return combining.combine(scorer, request["round"])
        if wanted := request.get("assess"):
            return assessing.assess(scorer, wanted, {arguments.split: holdout}, load)
        if wanted := request.get("spent"):
            return {"spent": epsilon([Charge(*one) for one in wanted["charges"]], wanted["delta"])}
        if wanted := request.get("check"):
            return check(scorer, probe_for(wanted["plan"]), wanted)
        against = scorer.right(Path(request["against"])) if request.get("against") else None
        return {"metrics": scorer.score_file(Path(request["model"]), against)}

    try:
        warm = Scorer(spec, holdout, arguments.decision)
    except ValueError as error:  # layers that are to be frozen and are not there, or a network of one's own
        say({"error": str(error)})
        return
    with contextlib.suppress(ValueError):  # of random weights, to which no threshold may belong
        warm.score()
    scorer = warm
    say({"ready": True, "holdout": {"sha256": fingerprint(holdout), "examples": len(holdout)}})
    with contextlib.suppress(BrokenPipeError):  # the vault was killed while it waited for an answer
        serve(answer, say, busy)


if __name__ == "__main__":
    main()

"""What is agreed of thresholds and temperatures, and what of them the history is held against."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from fedssh.errors import DecisionError, SettingsError
from fedssh.forms import canonical
from fedssh.rules import replay, thresholds
from fedssh.rules.events import Record
from fedssh.rules.gate import Gate, impossible, told
from fedssh.rules.precision import wilson
from fedssh.rules.replay import Replay
from fedssh.rules.terms import FORMS, Terms, agree

HISTORIES = Path(__file__).parents[1] / "vectors" / "histories"
SPEC = {"name": "cnn", "input": [28, 28, 1], "classes": 2}
OF_NUMBERS = {"task": "regression", "targets": [{"deviation": 1.0}]}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("youden", "youden"), (" youden ", "youden"), ("sensitivity>=0.95", "sensitivity>=0.95"),
        ("specificity >= .9", "specificity>=0.9"), ("sensitivity>=1", "sensitivity>=1"), ("0.50", "0.5"), (0.3, "0.3"),
        ("sensitivity>=0.00001", "sensitivity>=0.00001"), (1e-05, "0.00001"),
    ],
)  # fmt: skip
def test_a_rule_has_one_way_of_writing(text: object, rule: str) -> None:
    assert thresholds.read_rule(text).text == rule
    assert FORMS["threshold"](text) == rule


@pytest.mark.parametrize("text", ["", "1", "0", "1.5", "recall>=0.9", "sensitivity>=0", "sensitivity>=1.1", 1, None])
def test_what_is_no_rule_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected youden, sensitivity>=X, specificity>=X, or a probability"):
        thresholds.read_rule(text)


def test_who_has_seen_no_images_may_agree_on_a_threshold() -> None:
    assert agreed({}, threshold="youden")["decision"] == {"threshold": "youden"}


def agreed(spec: dict[str, Any] = SPEC, **settings: Any) -> dict[str, Any]:
    return agree({**vars(Terms()), **settings}, spec, "binary_crossentropy")


def test_what_is_as_by_default_is_not_written() -> None:
    assert "decision" not in agreed() and "decision" not in agreed(threshold="0.50")
    assert agreed(threshold="youden", temperature=True)["decision"] == {"threshold": "youden", "temperature": True}
    assert agreed({**SPEC, "classes": 3}, temperature=True)["decision"] == {"temperature": True}


def test_a_threshold_is_for_two_classes_of_which_one_is_right() -> None:
    with pytest.raises(SettingsError, match="--threshold is for two classes, here are 3"):
        agreed({**SPEC, "classes": 3}, threshold="youden")
    with pytest.raises(SettingsError, match="--threshold is for classes of which one is right, the task is regression"):
        agreed(OF_NUMBERS, threshold="youden")


@pytest.mark.parametrize(("right", "of"), [(0, 5), (5, 5), (16, 20), (437, 500)])
def test_intervals_are_wilsons(right: int, of: int) -> None:
    expected = binomtest(right, of).proportion_ci(method="wilson")
    assert wilson(right, of) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_ladder_tells_thresholds_as_they_are_found_and_no_table() -> None:
    metrics = {"loss": 0.123, "accuracy": 0.917, "threshold": 0.00669, "temperature": 1.1892,
               "calibration_error": 0.0312, "confusion_at_threshold": [[1, 0], [0, 1]]}  # fmt: skip
    assert told(Gate("ladder", 0.01), metrics) == {
        "loss": 0.12, "accuracy": 0.92, "threshold": 0.00669, "temperature": 1.1892, "calibration_error": 0.03,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", None), ("threshold", 1.1), ("threshold", True), ("temperature", 0.0), ("temperature", 30),
     ("calibration_error", 1.2), ("confusion_at_threshold", [[1, 2], [3]]), ("confusion_at_threshold", None)],
)  # fmt: skip
def test_absurd_figures_are_impossible(name: str, value: object) -> None:
    assert impossible({"loss": 0.1, name: value}) == name


def decided(name: str, decision: dict[str, Any]) -> list[Record]:
    """A history as if this had been agreed, every threshold being where all is as at 0.5."""

    def more(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(more, value))
        if not isinstance(value, dict):
            return value
        found = {key: more(one) for key, one in value.items()}
        if "auc" in found:
            found["calibration_error"] = 0.05
            if "threshold" in decision:
                found["threshold"] = 0.5
                found |= {} if "ladder" in name else {"confusion": TABLE, "confusion_at_threshold": TABLE}
            if "temperature" in decision:
                found["temperature"] = 1.2
        return found

    lines = map(json.loads, gzip.decompress((HISTORIES / f"{name}.jsonl.gz").read_bytes()).splitlines())
    records = []
    for line in lines:
        fields = more(json.loads(line["record"]))
        if fields["event"] == "genesis":
            fields["decision"] = decision
        records.append(Record(line["sequence"], line["hash"], canonical(fields), ""))
    return records


def followed(records: list[Record]) -> Replay:
    held = Replay()
    for record in records:
        held.follow(record)
    return held


TABLE = [[40, 10], [0, 50]]
BOTH = {"threshold": "youden", "temperature": True}


@pytest.mark.parametrize("decision", [{"threshold": "youden"}, {"threshold": "0.5"}, {"temperature": True}, BOTH])
@pytest.mark.parametrize("name", ["memory-merge-relay", "memory-ladder-free", "memory-krum"])
def test_a_history_with_a_decision_is_followed(name: str, decision: dict[str, Any]) -> None:
    records = decided(name, decision)
    scored = [one for one in records if one.event != "report" and "auc" in (one.fields.get("metrics") or {})]
    judged = [one for one in scored if one.event not in ("release", "rollback")]
    assert followed(records).unchecked[replay.CUT] == len(judged) > 1


def less(metrics: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {name: value for name, value in (metrics | other).items() if value is not ...}


@pytest.mark.parametrize(
    ("decision", "change", "error"),
    [
        (BOTH, lambda m: less(m, threshold=...), "a score lacks the threshold"),
        (BOTH, lambda m: less(m, temperature=...), "a score lacks the temperature"),
        (BOTH, lambda m: less(m, calibration_error=...), "a score lacks the calibration_error"),
        (BOTH, lambda m: less(m, confusion_at_threshold=...), "a score lacks the confusion_at_threshold"),
        ({"threshold": "youden"}, lambda m: less(m, temperature=1.0), "no temperature was agreed"),
        ({"temperature": True}, lambda m: less(m, threshold=0.5), "no threshold was agreed"),
        ({"threshold": "0.5"}, lambda m: less(m, threshold=0.4), "the threshold is 0.5"),
        (BOTH, lambda m: less(m, threshold=-0.1), "no model can score the threshold -0.1"),
        (BOTH, lambda m: less(m, confusion_at_threshold=moved(m, 0)), "the threshold .* has not the largest youden"),
        (BOTH, lambda m: less(m, confusion_at_threshold=more_of(m)), "the table at the threshold is of other images"),
        ({"threshold": "sensitivity>=1"}, lambda m: less(m, confusion_at_threshold=moved(m, 1)),
         "has not sensitivity>=1"),
        ({"threshold": "specificity>=0.8"}, lambda m: less(m, confusion_at_threshold=moved(m, 0)),
         "has not specificity>=0.8"),
    ],
)  # fmt: skip
def test_what_can_be_seen_of_a_threshold_is_held_against_what_was_agreed(
    decision: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], error: str
) -> None:
    first = decided("memory-merge-relay", decision)[0]
    fields = copy.deepcopy(first.fields)
    fields["metrics"] = change(fields["metrics"])
    with pytest.raises(DecisionError, match=error):
        Replay().follow(Record(1, first.hash, canonical(fields), ""))


def moved(metrics: dict[str, Any], label: int) -> list[list[int]]:
    """The table with one more image of a class called otherwise."""
    table: list[list[int]] = copy.deepcopy(metrics["confusion"])
    table[label][label] -= 1
    table[label][1 - label] += 1
    return table


def more_of(metrics: dict[str, Any]) -> list[list[int]]:
    table: list[list[int]] = copy.deepcopy(metrics["confusion"])
    table[0][0] += 1
    return table


def test_without_an_agreement_no_score_says_a_threshold() -> None:
    records = decided("memory-merge-relay", {})
    with pytest.raises(DecisionError, match="no calibration_error was agreed"):
        Replay().follow(records[0])

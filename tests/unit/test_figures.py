"""Intervals and comparisons, against SciPy and published examples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from fedssh.history import figures as texts
from fedssh.rules.differing import compared, fisher, holm
from fedssh.rules.figures import assessed, hanley_mcneil, shares
from fedssh.rules.precision import wilson

NAMES = ["normal", "pneumonia"]
HOLDOUT, TEST = [[119, 16], [7, 382]], [[124, 110], [5, 385]]


def test_each_class_has_its_recall_with_an_interval() -> None:
    found = {one["of"]: one for one in shares(HOLDOUT, NAMES)}
    assert list(found) == ["accuracy", "balanced accuracy", "recall of normal", "recall of pneumonia"]
    assert (found["accuracy"]["right"], found["accuracy"]["images"]) == (501, 524)
    for name, right, of in (("accuracy", 501, 524), ("recall of normal", 119, 135), ("recall of pneumonia", 382, 389)):
        assert (found[name]["low"], found[name]["high"]) == wilson(right, of)
        assert found[name]["value"] == right / of
    both = found["balanced accuracy"]
    assert both["value"] == pytest.approx((119 / 135 + 382 / 389) / 2)
    recalls = [found[f"recall of {name}"] for name in NAMES]
    assert both["low"] == pytest.approx(both["value"] - np.hypot(*(one["value"] - one["low"] for one in recalls)) / 2)
    assert both["high"] == pytest.approx(both["value"] + np.hypot(*(one["high"] - one["value"] for one in recalls)) / 2)


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    random, truths, sizes = np.random.default_rng(0), (0.8, 0.95), (135, 389)
    drawn = [[random.binomial(size, truth) for size, truth in zip(sizes, truths, strict=True)] for _ in range(2000)]
    tables = [[[a, sizes[0] - a], [sizes[1] - b, b]] for a, b in drawn]
    both = [shares(table, NAMES)[1] for table in tables]
    assert np.mean([one["low"] <= np.mean(truths) <= one["high"] for one in both]) == pytest.approx(0.95, abs=0.015)


def test_a_class_without_images_has_no_recall() -> None:
    assert [one["of"] for one in shares([[3, 1], [0, 0]], NAMES)] == [
        "accuracy", "balanced accuracy", "recall of normal",
    ]  # fmt: skip


def test_the_interval_of_an_auc_from_counts_is_the_published_one() -> None:
    low, high = hanley_mcneil(0.893, 58, 51)  # the example of Hanley and McNeil 1982: a standard error of 0.032
    assert (high - low) / 2 / 1.959964 == pytest.approx(0.032, abs=0.0015)
    assert hanley_mcneil(1.0, 5, 5) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("one", "two"),
    [((501, 524), (509, 624)), ((3, 4), (1, 9)), ((0, 5), (0, 7)), ((5, 5), (7, 7)), ((990, 1000), (1, 2))],
)
def test_two_shares_are_compared_as_by_fisher(one: tuple[int, int], two: tuple[int, int]) -> None:
    expected = fisher_exact([[one[0], one[1] - one[0]], [two[0], two[1] - two[0]]]).pvalue
    assert fisher(*one, *two) == pytest.approx(expected, rel=1e-6)


def test_p_values_are_corrected_as_by_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_holdout_that_does_not_speak_for_the_test_images_is_said_in_a_sentence() -> None:
    found = compared(HOLDOUT, TEST, NAMES)
    assert found["differs"] and found["sentence"] == (
        "the holdout does not speak for the test images: accuracy 0.956 against 0.816 (p < 0.001), recall of normal "
        "0.881 against 0.530 (p < 0.001); Fisher's exact test with Holm's correction"
    )
    assert [one["of"] for one in found["comparisons"]] == ["accuracy", "recall of normal", "recall of pneumonia"]
    few = compared([[4, 1], [1, 4]], [[120, 30], [30, 120]], None)
    assert not few["differs"] and few["sentence"].startswith(
        "holdout and test images do not differ by more than chance, as far as 10 and 300 images can tell (accuracy and"
    )


def test_chance_alone_seldom_makes_a_sentence() -> None:
    random, said = np.random.default_rng(1), 0
    for _ in range(300):
        a, b, c, d = (int(random.binomial(n, p)) for n, p in ((135, 0.8), (389, 0.95), (135, 0.8), (389, 0.95)))
        said += compared([[a, 135 - a], [389 - b, b]], [[c, 135 - c], [389 - d, d]], NAMES)["differs"]
    assert 0 < said <= 0.06 * 300


def test_what_is_assessed_is_shown_by_class_name() -> None:
    found = {"confusion": HOLDOUT, "auc": 0.99, "threshold": 0.31, "confusion_at_threshold": [[110, 25], [2, 387]],
             "calibration_error": 0.031, "temperature": 1.25}  # fmt: skip
    value = assessed(found, NAMES, "sensitivity>=0.99")
    assert value is not None and value["figures"][-1]["by"] == "Hanley and McNeil"
    text = texts.text(value, "ON THE HOLDOUT")
    assert "ON THE HOLDOUT, 524 EXAMPLES" in text and "CALLED pneumonia FROM 0.31 ON (sensitivity>=0.99)" in text
    low, high = wilson(110, 135)
    assert f"0.8148  {low:.4f} to {high:.4f}  110 of 135\n" in text
    assert text.endswith("expected calibration error 0.0310, 15 bins of equal width; temperature 1.25\n")
    exact = assessed({**found, "auc_interval": [0.98, 0.995]}, NAMES)
    assert exact is not None and exact["figures"][-1]["by"] == "DeLong"
    assert assessed({"accuracy": 0.9}, NAMES) is None and texts.text(None, "ON THE HOLDOUT") == ""


def test_of_very_many_classes_a_table_shows_the_first() -> None:
    table = np.eye(30, dtype=int).tolist()
    text = texts.text(assessed({"confusion": table, "auc": 0.9}, None), "ON THE HOLDOUT")
    assert "recall of 19 " in text and "recall of 20 " not in text and "and 20, 21, 22, 23," in text


@pytest.mark.parametrize("table", [[[0, 0], [0, 0]], [[1, 2], [3]], [[1, 2, 3], [4, 5, 6]]])
def test_a_table_that_only_a_liar_writes_tells_nothing(table: list[list[int]]) -> None:
    assert assessed({"confusion": table, "auc": 0.5}, ["a", "b"]) is None


def test_what_is_missing_of_a_table_is_left_out() -> None:
    found = assessed({"confusion": [[0, 0], [1, 1]], "auc": 0.5}, ["a", "b"])
    assert found and [one["of"] for one in found["figures"]] == ["accuracy", "balanced accuracy", "recall of b"]
    assert assessed({"confusion": [[1, 0], [0, 1]]}, ["a"]) is None

"""What `scripts/compare` prints, and which federation it compares when nothing is said."""

from __future__ import annotations

import pytest

from scripts import compare, terms


def test_the_default_is_the_demonstrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "POLICY", "fedavg")
    options = compare.parse([])
    assert (options.policy, options.sessions, options.epochs) == ("fedavg", terms.ROUNDS, terms.ROUND_EPOCHS)
    options = compare.parse(["--policy", "best", "--epochs", "2"])
    assert (options.policy, options.sessions, options.epochs) == ("best", terms.SESSIONS, 2)
    with pytest.raises(SystemExit):
        compare.parse(["--policy", "krum:1"])  # of three sites


def test_means_have_intervals_and_differences_are_paired() -> None:
    text = compare.table([1, 2], [[0.8, 0.9, 0.95, 0.7, 0.9, 0.94], [0.6, 0.8, 0.93, 0.5, 0.9, 0.92]])
    assert "| mean | 0.7000 ± 1.2706 | 0.8500 ± 0.6353 | 0.9400 ± 0.1271 | 0.6000 ± 1.2706 | 0.9000 ± 0.0000 |" in text
    assert "paired by seed: balanced accuracy +0.1000 ± 0.0000, accuracy -0.0500 ± 0.6353, AUC +0.0100 ± 0.0000" in text
    assert "one seed has no interval" in compare.table([1], [[0.8, 0.9, 0.95, 0.7, 0.9, 0.94]])

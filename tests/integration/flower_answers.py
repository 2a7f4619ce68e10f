"""What Flower makes of a round's updates; run with Flower on PYTHONPATH, in a process of its own.

    python flower_answers.py QUESTIONS.npz ANSWERS.npz

Questions: `updates` float64 [rounds, n, weights], `base` float64 [weights], `examples` int [n]. Answers: by the text of
our policy the combined weights of the first round; for server optimizers those of every round, [rounds, weights].
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from flwr.common import (  # never in the environment that mypy sees
    Code,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.strategy import FedAdam, FedAvgM, FedYogi
from flwr.server.strategy.aggregate import (
    aggregate,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)

TAU, RATE, MOMENTUM, BETA2 = 0.001, 0.01, 0.9, 0.99
LATE = 10**6  # FedAdam corrects the start of its means as Adam does; algorithm 2 of its paper, and we, do not. By this
# round the correction is 1.


def rules(updates: np.ndarray, examples: list[int]) -> dict[str, np.ndarray]:
    """The rules without a server optimizer; `updates` [n, weights]."""
    results = [([row], count) for row, count in zip(updates, examples, strict=True)]
    same = [([row], 1) for row in updates]  # Flower weighs the best of multi-Krum by examples; the paper does not
    n = len(updates)
    return {
        "fedavg": aggregate(results)[0],
        "median": aggregate_median(results)[0],
        "trimmed:1": aggregate_trimmed_avg(results, 1 / n + 1e-9)[0],
        "trimmed:2": aggregate_trimmed_avg(results, 2 / n + 1e-9)[0],
        "krum:1": aggregate_krum(results, 1, 0)[0],
        "krum:2": aggregate_krum(results, 2, 0)[0],
        "multi-krum:1": aggregate_krum(same, 1, n - 1)[0],
        "multi-krum:2": aggregate_krum(same, 2, n - 2)[0],
    }


def servers(base: np.ndarray, updates: np.ndarray, examples: list[int]) -> dict[str, np.ndarray]:
    """The server optimizers over all rounds; `updates` [rounds, n, weights]."""
    first = ndarrays_to_parameters([base])
    adaptive = {"eta": RATE, "beta_1": MOMENTUM, "beta_2": BETA2, "tau": TAU, "initial_parameters": first}
    adam, yogi = FedAdam(**adaptive), FedYogi(**adaptive)
    for strategy in (adam, yogi):
        strategy.v_t = [np.full_like(base, TAU**2)]  # Flower starts at 0, where algorithm 2 asks for tau^2 or more
    momentum = FedAvgM(server_learning_rate=0.5, server_momentum=MOMENTUM, initial_parameters=first)
    return {
        "fedavg:server=adam": _all_rounds(adam, updates, examples, LATE),
        "fedavg:server=yogi": _all_rounds(yogi, updates, examples, LATE),
        "fedavg:server=momentum,rate=0.5": _all_rounds(momentum, updates, examples, 1),
    }


def _all_rounds(strategy: Any, updates: np.ndarray, examples: list[int], first: int) -> np.ndarray:
    answers = []
    for number, rows in enumerate(updates, first):
        results = [
            (None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([row]), count, {}))
            for row, count in zip(rows, examples, strict=True)
        ]
        parameters, _ = strategy.aggregate_fit(number, results, [])
        answers.append(parameters_to_ndarrays(parameters)[0])
    return np.stack(answers)


def main(questions: str, answers: str) -> None:
    with np.load(questions) as asked:
        base, updates, examples = asked["base"], asked["updates"], asked["examples"].tolist()
    found: dict[str, Any] = {**rules(updates[0], examples), **servers(base, updates, examples)}
    np.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

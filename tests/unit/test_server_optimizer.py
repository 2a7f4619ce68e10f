"""Server optimizers by hand, their state over rounds, and numbers that grow too large."""

import math
from typing import Any

import numpy as np
import pytest

from fedssh.rules.averaging import RoundResult, round_result
from fedssh.rules.options import Value, server_start
from fedssh.rules.policies import read_policy
from fedssh.rules.server_optimizer import step


def one(value: float) -> dict[str, np.ndarray]:
    return {"w": np.array([value], "f4")}


def follow(policy: str, base: float, steps: list[float]) -> list[tuple[float, ...]]:
    """The model and the state after rounds in which the updates say: from the current model, go this far."""
    states: list[dict[str, np.ndarray]] = []
    weights, seen = one(base), []
    for delta in steps:
        result = round_result(read_policy(policy), weights, [one(weights["w"].item() + delta)], [1], states)
        weights, states = result.weights, result.state
        seen.append((weights["w"].item(), *(state["w"].item() for state in states)))
    return seen


def test_without_an_optimizer_the_model_takes_the_step() -> None:
    assert follow("fedavg", 2, [1, -4]) == [(3,), (-1,)]


def test_momentum_goes_on_in_the_direction_of_the_steps_before() -> None:
    # m: 1 · 0.5·1 + 1 = 1.5 · 0.5·1.5 - 1 = -0.25
    assert follow("fedavg:server=momentum,momentum=0.5", 2, [1, 1, -1]) == [(3, 1), (4.5, 1.5), (4.25, -0.25)]
    assert follow("fedavg:server=momentum,momentum=0.5,rate=2", 2, [1, 1]) == [(4, 1), (7, 1.5)]


def test_momentum_of_nothing_is_plain_averaging() -> None:
    assert follow("fedavg:server=momentum,momentum=0", 2, [1, -4]) == [(3, 1), (-1, -4)]


def test_adam_divides_by_the_root_of_the_mean_square() -> None:
    # v starts at 1: 0.5·1 + 0.5·49 = 25 · 0.5·25 + 0.5·25 = 25;  m: 3.5 · 0.5·3.5 + 0.5·5 = 4.25;  6·m / (5 + 1)
    options = "server=adam,momentum=0.5,beta2=0.5,tau=1,rate=6"
    assert follow(f"fedavg:{options}", 0, [7, 5]) == [(3.5, 3.5, 25), (7.75, 4.25, 25)]


def test_yogi_moves_the_mean_square_by_the_step_alone() -> None:
    # v starts at 1: 1 + 0.5·16 = 9 · 9 - 0.5·4 = 7 · 7 + 0.5·16 = 15;  m: 2 · 2 · 3;  4·m / (√v + 1)
    found = follow("fedavg:server=yogi,momentum=0.5,beta2=0.5,tau=1,rate=4", 0, [4, 2, 4])
    assert found[0] == pytest.approx((2, 2, 9), rel=1e-12)
    assert found[1] == pytest.approx((2 + 8 / (math.sqrt(7) + 1), 2, 7), rel=1e-6)
    assert found[2] == pytest.approx((2 + 8 / (math.sqrt(7) + 1) + 12 / (math.sqrt(15) + 1), 3, 15), rel=1e-6)


def test_yogi_keeps_a_mean_square_that_is_the_step_s() -> None:
    assert follow("fedavg:server=yogi,momentum=0,beta2=0.5,tau=2,rate=1", 0, [2]) == [(0.5, 2, 4)]


def test_the_defaults_are_those_of_the_paper() -> None:
    (weights, mean, spread) = follow("fedavg:server=adam", 0, [1])[0]
    assert (mean, spread) == pytest.approx((0.1, 0.99e-6 + 0.01), rel=1e-6)
    assert weights == pytest.approx(0.01 * 0.1 / (math.sqrt(0.01000099) + 0.001), rel=1e-6)


def test_nothing_to_do_moves_nothing() -> None:
    for server in ("adam", "yogi", "momentum"):
        assert [row[0] for row in follow(f"median:server={server}", 0.1, [0, 0])] == [np.float32(0.1).item()] * 2


def test_the_optimizer_follows_any_rule() -> None:
    updates = [one(value) for value in (1, 2, 99)]
    result = round_result(read_policy("median:server=momentum,rate=0.5"), one(0), updates, [1, 1, 1], [])
    assert (result.weights["w"].item(), result.state[0]["w"].item()) == (1, 2)


def test_the_state_is_shaped_as_the_model_and_kept_in_float32() -> None:
    base = {"a": np.zeros((2, 3), "f4"), "b": np.zeros((), "f4"), "c": np.zeros((0, 2), "f4")}
    result = round_result(read_policy("fedavg:server=yogi"), base, [base], [1], [])
    assert len(result.state) == 2
    for each in (result.weights, *result.state):
        assert {name: (array.shape, array.dtype) for name, array in each.items()} == {
            name: (array.shape, np.dtype("f4")) for name, array in base.items()
        }
    assert result.state[1]["a"].tolist() == np.full((2, 3), 1e-6, "f4").tolist()


@pytest.mark.parametrize(("server", "sets"), [("adam", 1), ("yogi", 3), ("momentum", 2), (None, 1)])
def test_a_state_of_another_optimizer_is_refused(server: str | None, sets: int) -> None:
    policy = read_policy(f"fedavg:server={server}" if server else "fedavg")
    with pytest.raises(ValueError, match=f"has {sets} sets of arrays"):
        round_result(policy, one(0), [one(1)], [1], [one(1)] * sets)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": np.array([np.nan], "f4")}, "the state of the server optimizer: 1 of 1 weights are not finite"),
        ({"v": np.array([0], "f4")}, "the state of the server optimizer: the tensor w is missing"),
        ({"w": np.zeros(2, "f4")}, "the state of the server optimizer: the tensor w has shape"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_result(read_policy("fedavg:server=momentum"), one(0), [one(1)], [1], [state])


def round_of(policy: str, update: float, state: list[float], base: float = 0.0) -> RoundResult:
    return round_result(read_policy(policy), one(base), [one(update)], [1], [one(value) for value in state])


@pytest.mark.filterwarnings("error")
def test_what_grew_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="the result of the round: 1 of 1 weights are not finite"):
        round_of("fedavg:server=momentum,rate=10", 3e38, [])
    with pytest.raises(ValueError, match="the new state of the server optimizer: 1 of 1 weights are not finite"):
        round_of("fedavg:server=momentum,rate=0.5", 3e38, [3e38])
    with pytest.raises(ValueError, match="the new state of the server optimizer: 1 of 1"):
        round_of("fedavg:server=adam", 1e21, [])
    with pytest.raises(ValueError, match="the result of the round: 1 of 1"):
        round_of("fedavg:server=adam", 0, [1, -1])  # no mean square is negative


@pytest.mark.parametrize("server", ["adam", "yogi"])
def test_a_model_may_be_stepped_in_parts(server: str) -> None:
    random = np.random.default_rng(3)
    values = read_policy(f"fedavg:server={server}").values
    model, combined, mean = random.normal(size=(3, 10))
    spread = random.random(10)
    whole, state = step(values, model, combined, [mean, spread])
    parts: list[Any] = [step(values, model[k], combined[k], [mean[k], spread[k]]) for k in (slice(0, 4), slice(4, 10))]
    assert np.array_equal(whole, np.concatenate([part[0] for part in parts]))
    assert all(np.array_equal(state[k], np.concatenate([part[1][k] for part in parts])) for k in (0, 1))


def test_an_unknown_optimizer_is_an_error() -> None:
    values: dict[str, Value] = {"server": "sgd", "rate": 1.0, "momentum": 0.9, "beta2": 0.9, "tau": 0.1}
    with pytest.raises(ValueError, match="no server optimizer is called 'sgd'"):
        step(values, np.zeros(1), np.ones(1), [np.zeros(1), np.zeros(1)])
    assert (
        server_start({}) == [] and server_start({"server": "momentum"}) == [0] and server_start(values) == [0, 0.1**2]
    )


@pytest.mark.parametrize("server", ["momentum", "adam,rate=0.1", "yogi,rate=0.1"])
def test_statistics_follow_the_mean_and_never_the_optimizer(server: str) -> None:
    """A variance that falls from 1 to 0.01, as after the first round of batch normalisation."""
    policy, states = read_policy(f"fedavg:server={server}"), list[dict[str, np.ndarray]]()
    weights = {"variance": np.array([1], "f4"), "w": np.array([1], "f4")}
    for said in (0.01, 0.01, 0.012, 0.011):
        updates = [{name: np.array([said + more], "f4") for name in weights} for more in (0, 0.002)]
        result = round_result(policy, weights, updates, [3, 1], states, {"variance"})
        weights, states = result.weights, result.state
        assert weights["variance"].item() == pytest.approx(said + 0.0005, rel=1e-6), "the weighted mean"
        assert [kept["variance"].item() for kept in states] == [
            np.float32(value) for value in server_start(policy.values)
        ]
    as_weights = follow(f"fedavg:server={server}", 1, [-0.99, 0, 0.002, -0.001])
    if server == "momentum":
        assert min(step[0] for step in as_weights) < 0, "as a weight it overshoots: a negative variance"


def test_statistics_are_what_a_robust_rule_makes_of_them() -> None:
    policy = read_policy("median:server=momentum")
    updates = [{"variance": np.array([value], "f4")} for value in (0.5, 0.7, 1e30)]
    result = round_result(policy, {"variance": np.array([1], "f4")}, updates, [1, 1, 1], [], {"variance"})
    assert result.weights["variance"].item() == np.float32(0.7)


def test_clipping_shortens_statistics_with_the_weights() -> None:
    """A step of length 5, of which 4 are the statistic's, is shortened to 1: nothing hides outside the norm."""
    base, update = ({"variance": np.array([1], "f4"), "w": np.array([w], "f4")} for w in (0, 3))
    update["variance"] = np.array([5], "f4")
    result = round_result(read_policy("fedavg:clip=1"), base, [update], [1], [], {"variance"})
    assert (result.weights["w"].item(), result.weights["variance"].item()) == pytest.approx((0.6, 1.8))

"""Flower's SecAgg+ without a network: all its messages handed over in one process, for `masked_rounds --flower PYTHON`.

Runs under a Python that has `flwr` (1.42 when this was written) and prints one line of JSON: the seconds of each round,
with SecAgg+ and with plain FedAvg, where nobody trains. What Flower's processes and its network take is not in it.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
from collections.abc import Iterable
from typing import Any

import flwr.compat.common.recorddict_compat as compat
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.server import ServerConfig
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.server.workflow.default_workflows import default_fit_workflow
from flwr.supercore.task_identity import TaskIdentity

EXAMPLES = 400


class Proxy:
    """What Flower's strategies know of a client."""

    def __init__(self, number: int) -> None:
        self.node_id, self.cid = number, str(number)


class Managers:
    """A client manager that has everybody."""

    def __init__(self, count: int) -> None:
        self.proxies = [Proxy(number + 1) for number in range(count)]

    def num_available(self) -> int:
        return len(self.proxies)

    def sample(self, *_: Any, **__: Any) -> list[Proxy]:
        return self.proxies

    def wait_for(self, *_: Any) -> bool:
        return True


class Here:
    """Clients in this process."""

    def __init__(self, count: int, update: list[np.ndarray]) -> None:
        self._contexts = {number: context(number) for number in range(1, count + 1)}
        self._parameters = ndarrays_to_parameters(update)

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        own = Message(copy.deepcopy(message.content), metadata=message.metadata)
        asked = self._contexts[message.metadata.dst_node_id]
        masked = RECORD_KEY_CONFIGS in own.content.config_records
        return secaggplus_mod(own, asked, self._fit) if masked else self._fit(own, asked)

    def _fit(self, message: Message, _: Context) -> Message:
        done = FitRes(Status(Code.OK, ""), self._parameters, EXAMPLES, {})
        return Message(compat.fitres_to_recorddict(done, True), reply_to=message)


def context(number: int) -> Context:
    """An empty one."""
    return Context(run_id=1, node_id=number, node_config={}, state=RecordDict(), run_config={})


def seconds(count: int, update: list[np.ndarray], rounds: int, fit: Any) -> list[float]:
    """Of each round of a way to have clients fit."""
    found = []
    here = Here(count, update)
    for number in range(1, rounds + 1):
        strategy = FedAvg(min_fit_clients=count, min_available_clients=count)
        legacy = LegacyContext(context(0), ServerConfig(num_rounds=rounds), strategy, Managers(count))
        legacy.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(here._parameters, True)
        legacy.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: number})
        start = time.perf_counter()
        fit(here, legacy)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    """Measure and print."""
    count, weights, rounds = (int(word) for word in sys.argv[1:])
    logging.getLogger("flwr").setLevel(logging.ERROR)
    update = [np.random.default_rng(0).normal(0, 0.05, weights).astype(np.float32)]
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    masked = SecAggPlusWorkflow(num_shares=count, reconstruction_threshold=2 * count // 3 + 1)
    print(json.dumps({
        "plain": seconds(count, update, rounds, default_fit_workflow), "secagg": seconds(count, update, rounds, masked)
    }))  # fmt: skip


if __name__ == "__main__":
    main()

"""Times Flower's own SecAgg+ code, one command per line: JSON in, JSON out. Runs where requirements.txt is installed.

    {"prepare": "client", "parameters": d, "neighbours": k}            -> {"ready": ...}
    {"prepare": "server", "parameters": d, "members": n, "threshold": t, "silent": [ids]} -> {"ready": ...}
    {"run": true}                                                      -> {"cpu_seconds": s, ...}

client  `_collect_masked_vectors` of flwr.client.mod: open the shares, quantise, agree on keys, mask, serialise.
server  `SecAggPlusWorkflow.unmask_stage`: ask for shares, rebuild secrets, take the masks off, dequantise. The grid is
        a stand-in that asks the clients' own `_unmask`; the time that takes is not counted. `error` is the largest
        distance between the mean that came out and the true one.

Settings are Flower's defaults: clipping range 8, 2^22 levels, modulus 2^32, the complete graph by num_shares = n.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.supercore.task_identity import TaskIdentity

mod = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
MAX_WEIGHT = 1000.0


def update(member: int, words: int) -> np.ndarray:
    """float32[words], reproducible, well inside the clipping range."""
    return np.random.default_rng(member).normal(0, 0.05, words).astype(np.float32)


def set_up(workflow: SecAggPlusWorkflow, members: list[int]) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Flower's stages 0 and 1 for every member: states, public keys, and each one's request of stage 2."""
    settings = {
        Key.SAMPLE_NUMBER: len(members),
        Key.SHARE_NUMBER: workflow.num_shares,
        Key.THRESHOLD: workflow.reconstruction_threshold,
        Key.CLIPPING_RANGE: workflow.clipping_range,
        Key.TARGET_RANGE: workflow.quantization_range,
        Key.MOD_RANGE: workflow.modulus_range,
        Key.MAX_WEIGHT: workflow.max_weight,
    }
    states = {member: mod.SecAggPlusState(nid=member) for member in members}
    for member, state in states.items():
        state.nid = member
    adverts = {member: mod._setup(state, settings) for member, state in states.items()}
    keys = {member: [one[Key.PUBLIC_KEY_1], one[Key.PUBLIC_KEY_2]] for member, one in adverts.items()}
    inbox: dict[int, Any] = {member: {Key.CIPHERTEXT_LIST: [], Key.SOURCE_LIST: []} for member in members}
    for member, state in states.items():
        dealt = mod._share_keys(state, {str(other): pair for other, pair in keys.items()})
        for receiver, ciphertext in zip(dealt[Key.DESTINATION_LIST], dealt[Key.CIPHERTEXT_LIST], strict=True):
            inbox[receiver][Key.CIPHERTEXT_LIST].append(ciphertext)
            inbox[receiver][Key.SOURCE_LIST].append(member)
    return states, keys, inbox


def client_case(words: int, neighbours: int) -> Callable[[], dict[str, float]]:
    members = list(range(1, neighbours + 2))
    n = len(members)
    states, _, inbox = set_up(SecAggPlusWorkflow(n, 2 * n // 3 + 1, max_weight=MAX_WEIGHT), members)
    middle = members[n // 2]
    parameters = ndarrays_to_parameters([update(middle, words)])

    def run() -> dict[str, float]:
        start, begun = time.process_time(), time.perf_counter()
        reply = mod._collect_masked_vectors(states[middle], inbox[middle], int(MAX_WEIGHT), parameters)
        waited, spent = time.perf_counter() - begun, time.process_time() - start
        size = float(sum(len(one) for one in reply[Key.MASKED_PARAMETERS]))
        return {"cpu_seconds": spent, "wall_seconds": waited, "bytes": size}

    return run


class ReadyGrid:
    """Hands over the share lists that the clients computed; `seconds` is what that took."""

    def __init__(self, states: dict[int, Any]) -> None:
        self.states, self.seconds = states, 0.0

    def send_and_receive(self, messages: list[Message], *, timeout: float | None = None) -> list[Message]:
        start = time.process_time()
        replies = []
        for message in messages:
            request = message.content.config_records[RECORD_KEY_CONFIGS]
            found = mod._unmask(self.states[message.metadata.dst_node_id], request)
            content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(found)})
            replies.append(Message(content, reply_to=message))
        self.seconds += time.process_time() - start
        return replies


def server_case(words: int, n: int, threshold: int, silent: set[int]) -> Callable[[], dict[str, float]]:
    members = list(range(1, n + 1))
    workflow = SecAggPlusWorkflow(n, threshold, max_weight=MAX_WEIGHT)
    states, keys, inbox = set_up(workflow, members)
    alive = [member for member in members if member not in silent]
    masked: list[np.ndarray] = []
    truth = np.zeros(words)
    for member in alive:
        vector = update(member, words)
        truth += vector
        parameters = ndarrays_to_parameters([vector])
        reply = mod._collect_masked_vectors(states[member], inbox[member], int(MAX_WEIGHT), parameters)
        arrays = [bytes_to_ndarray(one) for one in reply[Key.MASKED_PARAMETERS]]
        masked = [a + b for a, b in zip(masked, arrays, strict=True)] if masked else arrays
    masked = [array & (workflow.modulus_range - 1) for array in masked]
    truth /= len(alive)

    def run() -> dict[str, float]:
        state = WorkflowState(
            sampled_node_ids=set(members),
            active_node_ids=set(alive),
            num_shares=n,
            threshold=threshold,
            clipping_range=workflow.clipping_range,
            quantization_range=workflow.quantization_range,
            mod_range=workflow.modulus_range,
            max_weight=workflow.max_weight,
            nid_to_neighbours={member: set(members) for member in members},
            nid_to_publickeys=keys,
            aggregate_ndarrays=[array.copy() for array in masked],
        )
        result = SimpleNamespace(parameters=None)
        state.legacy_results = [(None, result)]
        strategy = SimpleNamespace(aggregate_fit=lambda *_: (None, {}))
        records = {MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: 1}}
        context = SimpleNamespace(state=SimpleNamespace(config_records=records), strategy=strategy)
        grid = ReadyGrid(states)
        start = time.process_time()
        done = workflow.unmask_stage(grid, context, state)
        spent = time.process_time() - start - grid.seconds
        if not done:
            raise RuntimeError("Flower's unmask_stage reported a failure; a recovered mean was expected")
        mean = parameters_to_ndarrays(result.parameters)[0]
        return {"cpu_seconds": spent, "error": float(np.max(np.abs(mean - truth)))}

    return run


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # a message names the run it belongs to
    run: Callable[[], dict[str, float]] | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("prepare") == "client":
            run = client_case(order["parameters"], order["neighbours"])
            answer: dict[str, Any] = {"ready": True, "flwr": version("flwr"), "numpy": np.__version__}
        elif order.get("prepare") == "server":
            run = server_case(order["parameters"], order["members"], order["threshold"], set(order["silent"]))
            answer = {"ready": True, "flwr": version("flwr"), "numpy": np.__version__}
        elif run is not None:
            answer = run()
        else:
            raise ValueError("a case is prepared before it runs")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

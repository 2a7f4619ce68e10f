"""A history in MLflow's store, by its own client: an experiment for the federation, a run for each site and one more.

MLflow tells nobody of it: its telemetry is switched off before it is imported. Asked again, each run goes on after the
record that its tag `fedssh.sequence` names; if this history has another one of that number, it is another history, and
nothing is written. That tag is set when all before it is stored; whoever was cut off before writes some numbers again,
which MLflow keeps once. No password in a URI is printed, whoever would say it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.errors import AgentError, SettingsError, UnreachableError
from fedssh.use.tracked import Told, seconds_of
from fedssh.use.trackers import shown, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH, SMALL_BATCH = 1000, 100  # numbers in a request, and parameters or tags: the most that MLflow takes
OFF = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
# Left to itself, MLflow is silent for minutes where nobody answers: 7 tries more, of up to 120 seconds each.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
SQLITE = "sqlite:///"
NAME = "name."


def export(told: Told, uri: str) -> list[str]:
    """Write what the store has not yet.

    Args:
        uri: Of the tracking store, such as `sqlite:///runs.db`.

    Returns:
        The runs that something was written for.

    Raises:
        SettingsError: MLflow is not installed, the store cannot be used, or has runs of another history.
        UnreachableError: The server does not answer, or not now.
        AgentError: MLflow failed.
    """
    client = _client(uri)
    from mlflow.exceptions import MlflowException

    try:
        return _exported(told, client, uri)
    except AgentError:
        raise
    except (MlflowException, OSError, ValueError) as error:
        if _unreachable(error):
            hint = f"{', '.join(PATIENCE)} say how long it is tried"
            raise UnreachableError(f"the MLflow server {shown(uri)} does not answer", hint) from None
        raise AgentError(f"MLflow: {_said(error, uri)}") from None


def _said(error: Exception, uri: str) -> str:
    """The first line of what a library says."""
    return without_secrets(str(error), uri).partition("\n")[0][:300]


def _unreachable(error: BaseException | None) -> bool:
    """Whether it comes of a connection that failed, of a server that is too slow, or too busy all the time."""
    from requests.exceptions import ConnectionError, RetryError, Timeout

    while error is not None:
        if isinstance(error, ConnectionError | RetryError | Timeout):
            return True
        error = error.__cause__ or error.__context__
    return False


def _client(uri: str) -> MlflowClient:
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).absolute().parent.is_dir():
        raise SettingsError(f"--to mlflow:{uri}: its folder does not exist")
    os.environ.update(OFF)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):  # they tell of each table that they make
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each try
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise SettingsError(
            f"--to mlflow needs the extra trackers: {error}", "pip install 'fedssh[trackers]'"
        ) from None
    try:
        return MlflowClient(tracking_uri=uri)
    except (MlflowException, ImportError, OSError, ValueError) as error:
        raise SettingsError(f"--to mlflow:{shown(uri)} cannot be used: {_said(error, uri)}") from None


def _exported(told: Told, client: MlflowClient, uri: str) -> list[str]:
    from mlflow.entities import Metric, Param

    experiment = _experiment(told, client, uri)
    known = _runs(client, experiment)
    ends = {run: _end(told, known.get(run)) for run in told.runs()}
    ids = {run: known[run].info.run_id if run in known else _begin(told, client, experiment, run) for run in ends}
    params = [Param(*one) for one in told.parameters().items()]
    for run in (run for run, end in ends.items() if not end):
        for first in range(0, len(params), SMALL_BATCH):
            client.log_batch(ids[run], params=params[first : first + SMALL_BATCH])
    waiting: dict[str, list[Metric]] = {run: [] for run in ends}
    written = dict.fromkeys((run for run in ends if run not in known), True)
    for point in told.points(min(ends.values())):
        if point.step <= ends[point.run]:
            continue
        written[point.run] = True
        batch = waiting[point.run]
        batch.append(Metric(point.metric, point.value, round(point.seconds * 1000), point.step))
        if len(batch) == BATCH:
            client.log_batch(ids[point.run], metrics=batch)
            batch.clear()
    for run, batch in waiting.items():
        if batch:
            client.log_batch(ids[run], metrics=batch)
        _close(told, client, ids[run], run, dict(known[run].data.tags) if run in known else {})
    return [run for run in ends if run in written]


def _experiment(told: Told, client: MlflowClient, uri: str) -> str:
    """The federation's, by its name and the hash of its first record; made where there is none."""
    from mlflow.exceptions import MlflowException

    name = f"{told.genesis['federation']} ({told.genesis['hash'][:12]})"
    if (found := client.get_experiment_by_name(name)) is not None:
        if found.lifecycle_stage == "deleted":
            raise SettingsError(
                f"the experiment {name!r} was deleted in {shown(uri)}", "restore it there, or give another store"
            )
        return str(found.experiment_id)
    place = None  # what the store likes best; but for files of a local one not whatever folder one is in
    if uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE)).absolute()
        place = (file.parent / f"{file.stem}-artifacts").as_uri()
    try:
        return str(
            client.create_experiment(name, artifact_location=place, tags={"fedssh.genesis": told.genesis["hash"]})
        )
    except MlflowException as error:
        if _unreachable(error):
            raise
        raise SettingsError(f"MLflow takes no experiment {name!r}: {_said(error, uri)}") from None


def _runs(client: MlflowClient, experiment: str) -> dict[str, Any]:
    """The runs of before, by whose they are."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found |= {run.data.tags["fedssh.run"]: run for run in page if "fedssh.run" in run.data.tags}
        token = page.token
        if not token:
            return found


def _end(told: Told, run: Any) -> int:
    """The record that a run ends with; 0 of one that has not begun."""
    tags = run.data.tags if run is not None else {}
    if "fedssh.sequence" not in tags:
        return 0
    last = int(tags["fedssh.sequence"]) if tags["fedssh.sequence"].isdecimal() else 0
    if not told.is_of(last, tags.get("fedssh.head", "")):
        raise SettingsError(
            f"the store has runs of another history of {told.genesis['federation']}", "give another one"
        )
    return last


def _begin(told: Told, client: MlflowClient, experiment: str, run: str) -> str:
    about = {"fedssh.run": run, "fedssh.federation": told.genesis["federation"]}
    made = client.create_run(experiment, round(seconds_of(told.genesis) * 1000), about, run)
    return str(made.info.run_id)


def _close(told: Told, client: MlflowClient, id: str, run: str, before: dict[str, str]) -> None:
    """Say up to where a run is written, and what its models are called now."""
    from mlflow.entities import RunTag

    names = {NAME + tag: text for tag, text in told.names(run).items()}
    tags = names | {"fedssh.sequence": str(told.sequence), "fedssh.head": told.head}
    new = [RunTag(*one) for one in tags.items() if before.get(one[0]) != one[1]]
    for first in range(0, len(new), SMALL_BATCH):
        client.log_batch(id, tags=new[first : first + SMALL_BATCH])
    for gone in before.keys() - names.keys():
        if gone.startswith(NAME):
            client.delete_tag(id, gone)
    if told.totals["finished"]:
        client.set_terminated(id, "FINISHED", round(seconds_of(told.row(told.sequence)) * 1000))
    elif before:
        client.update_run(id, "RUNNING")  # it may have been reopened

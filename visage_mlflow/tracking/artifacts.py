"""Files of runs: where MLflow keeps them, tried before anything is computed, and what it says when it cannot.

The tracking server chooses that place, or whoever made the experiment, but each client may have to write there itself.
So a server that takes numbers may still lead to a bucket without credentials, or to a folder of its own machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import is_local_uri

from visage_mlflow.text.errors import Mistake, is_full_disk, is_out_of_memory
from visage_mlflow.text.printing import hide, masked
from visage_mlflow.tracking.active import while_active
from visage_mlflow.tracking.connection import client, store
from visage_mlflow.tracking.retries import Place, ask, reason

PROXIED = "mlflow-artifacts"
"""Scheme of artifacts that the tracking server takes and keeps for its clients."""
DOES_NOT_SERVE = re.compile(r"(?:too many|error code) (500|501|503)\b")
"""Status of a tracking server that answers, but not to this: it cannot write, or does not serve artifacts."""

Answer = TypeVar("Answer")


def keep(call: Callable[[], Answer], run_id: str, *, is_first: bool = False) -> Answer:
    """Keep files of a run by a call to MLflow, which may be made several times.

    Args:
        call: Writes files.
        run_id: Of the run that they belong to.
        is_first: Whether nothing was kept yet. Then a server that fails is not waited for: it just took the run.

    Raises:
        Mistake: The place where MLflow keeps them refuses them.
        ServerAway: It cannot be reached.
    """
    root = _root(run_id)

    def once() -> Answer:
        try:
            return call()
        except MlflowException as error:
            if is_first and _is_proxied(root) and (found := DOES_NOT_SERVE.search(str(error))):
                with suppress(MlflowException):  # The server left the file unread, and ends the connection with it.
                    client().get_run(run_id)
                raise _mistake(root, f"the server answers {found[1]}.") from error
            raise

    try:
        with while_active(run_id):
            return ask(once, _place(root))
    except Mistake:
        raise
    except Exception as error:  # Each kind of store raises its own types; ftp's makes folders up to a RecursionError.
        if is_full_disk(error) or is_out_of_memory(error):
            raise
        raise _refused(root, error) from error


def check_arrived(run: Run, name: str) -> None:
    """Raise Mistake for a file, kept in a folder, that the tracking server does not see: it is on another machine."""
    root = run.info.artifact_uri
    if not (store().startswith("http") and is_local_uri(root)):
        return
    creds = client()._tracking_client.store.get_host_creds()
    query = {"run_id": run.info.run_id}
    answer = ask(lambda: http_request(creds, "/api/2.0/mlflow/artifacts/list", "GET", params=query))
    if answer.status_code == 200 and name not in [file["path"] for file in answer.json().get("files", [])]:
        why = "it was written here, and the tracking server, which may be another machine, does not see it."
        raise _mistake(root, why)


def _refused(root: str, error: Exception) -> Mistake:
    kind = "" if isinstance(error, MlflowException) else f"{type(error).__name__}, "
    return _mistake(root, f"{kind}{reason(error)}", isinstance(error, ImportError))


def _mistake(root: str, why: str, lacks_library: bool = False) -> Mistake:
    if lacks_library:
        cure = "Install what that kind of place needs"
    elif _is_proxied(root):
        cure = (
            "Look into the server's log, and start it with `--serve-artifacts` and an `--artifacts-destination` that "
            "it may write to"
        )
    elif is_local_uri(root):
        cure = "Give this user the right to write there, or start the tracking server with `--serve-artifacts`"
    else:
        cure = "Check its address, and the credentials and rights of this user"
    return Mistake(
        f"The run's files cannot be kept in {masked(root)}, its artifact root: {why} {cure}, or set "
        "MLFLOW_EXPERIMENT_NAME to a new experiment in another place."
    )


def _place(root: str) -> Place:
    """What to call the place where a run's files go when it is away; the tracking server, where that takes them."""
    if _is_proxied(root) and not urlsplit(root).netloc:
        return Place()
    return Place("artifact store", f"the run's artifact root, which is {masked(root)}")


def _is_proxied(root: str) -> bool:
    return root.startswith(PROXIED)


@cache
def _root(run_id: str) -> str:
    root = str(ask(lambda: client().get_run(run_id)).info.artifact_uri)
    hide(root)
    return root

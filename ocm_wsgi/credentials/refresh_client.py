"""The worker's side of a refresh: starting the process that does it, and waiting for its outcome."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

import ocm_wsgi
from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.credentials.refresh_protocol import (
    JOB,
    OUTCOME,
    Problem,
    RefreshJob,
    RefreshOutcome,
    RefreshSettings,
    Timeouts,
)
from ocm_wsgi.credentials.refusal_store import RefusalStore, digest_of
from ocm_wsgi.credentials.trust import trust_as_json
from ocm_wsgi.oauth.refresh import ISSUER, RefreshReason
from ocm_wsgi.tls.contexts import TrustSettings


def refresh_in_new_process(job: RefreshJob) -> RefreshOutcome:
    """Run a job in a separate process, which continues if this one dies or stops waiting."""
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
            [_interpreter(), "-m", "ocm_wsgi.credentials.refresh_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            # Not in the terminal's process group: Ctrl-C is meant for the server.
            start_new_session=True,
        )
    except OSError as exc:
        return RefreshOutcome.failed(Problem.PROCESS, f"the process could not be started: {exc.strerror}")
    try:
        output, _ = process.communicate(JOB.dump_json(job), timeout=job.timeouts.total_seconds)
    except subprocess.TimeoutExpired:
        return RefreshOutcome.failed(Problem.PROCESS, "the process timed out")
    finally:
        _detach(process)
    try:
        return OUTCOME.validate_json(output)
    except ValidationError:
        return RefreshOutcome.failed(Problem.PROCESS, f"the process exited without an outcome ({process.returncode})")


class Refresher:
    """Refreshes any number of credentials. Thread-safe; holds no lock and no open file.

    The environment is read once, in the constructor: ``CODEX_REFRESH_TOKEN_URL_OVERRIDE`` and
    ``CODEX_APP_SERVER_LOGIN_CLIENT_ID`` have the same meaning as in Codex.

    :param auth_base_url: the issuer's base URL.
    :param proxy_url: the proxy to use, with its password; ``None`` connects directly.
    :param trust: the certificates to trust; ``None`` trusts certifi's roots.
    :param on_outcome: called with the outcome of each refresh, in the thread that waited for it.
    :param run: runs a job, and returns its outcome.
    """

    def __init__(
        self,
        *,
        auth_base_url: str = ISSUER,
        proxy_url: str | None = None,
        trust: TrustSettings | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - a frozen value
        environ: Mapping[str, str] = os.environ,
        on_outcome: Callable[[RefreshOutcome], None] | None = None,
        run: Callable[[RefreshJob], RefreshOutcome] = refresh_in_new_process,
    ) -> None:
        self._settings = RefreshSettings(
            auth_base_url=auth_base_url,
            proxy_url=proxy_url,
            trust=trust_as_json(trust),
            token_url=environ.get("CODEX_REFRESH_TOKEN_URL_OVERRIDE") or None,
            client_id=environ.get("CODEX_APP_SERVER_LOGIN_CLIENT_ID") or None,
        )
        self._timeouts = timeouts
        self._on_outcome = on_outcome
        self._run = run

    def refresh(
        self, credential_path: Path, *, state_path: Path, document: Document, reason: RefreshReason
    ) -> RefreshOutcome:
        """Refresh the tokens of ``document`` in its file, and return the outcome."""
        outcome = self._refresh(credential_path, state_path, document, reason)
        if self._on_outcome is not None:
            self._on_outcome(outcome)
        return outcome

    def _refresh(
        self, credential_path: Path, state_path: Path, document: Document, reason: RefreshReason
    ) -> RefreshOutcome:
        job = RefreshJob(
            credential_path=credential_path,
            state_path=state_path,
            fingerprint=document.fingerprint,
            reason=reason,
            settings=self._settings,
            timeouts=self._timeouts,
        )
        return self._run(job)

    def refusal(self, credential_path: Path, *, state_path: Path, document: Document) -> str | None:
        """Return the error code with which these tokens were permanently refused, or ``None``.

        A very recent refusal is not reported yet, because another program may be about to write better tokens.

        :raises CredentialRejected: the tokens would be sent in clear text.
        """
        if document.refresh_token is None:
            return None
        digest = digest_of(document.refresh_token, self._settings.endpoint(document.provenance))
        refusal = RefusalStore(credential_path, state_path=state_path).find(digest)
        if refusal is None or 0 <= time.time() - refusal.refused_at <= self._timeouts.adoption_seconds:
            return None
        return refusal.oauth_code


def _detach(process: subprocess.Popen[bytes]) -> None:
    """Stop communicating with a process that still runs. A thread reaps it when it exits."""
    if process.returncode is not None:
        return
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    threading.Thread(target=process.wait, name="credential-reaper", daemon=True).start()


def _interpreter() -> str:
    """Return the Python interpreter. In servers that embed Python, such as uWSGI, ``sys.executable`` is the server."""
    if "python" in os.path.basename(sys.executable) or "pypy" in os.path.basename(sys.executable):
        return sys.executable
    return os.path.join(sys.prefix, "bin", "python3")


def _environment() -> Mapping[str, str]:
    """Return our environment with a ``PYTHONPATH`` by which the new process imports this very package."""
    package_folder = str(Path(ocm_wsgi.__file__).resolve().parent.parent)
    folders = [package_folder, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}

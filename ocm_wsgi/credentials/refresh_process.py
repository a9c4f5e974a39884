"""``python -m ocm_wsgi.credentials.refresh_process``: refresh one credential in a process of its own.

A refresh token can be used once, and the tokens returned for it must reach the disk. So this does not happen in a
worker, which may be killed for other reasons: at a reload, when it stops responding, at Ctrl-C. The job is read from
standard input and the outcome written to standard output. If the worker is gone by then, the file has the new tokens.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path

from ocm_wsgi.credentials.auth_file import Document
from ocm_wsgi.credentials.auth_file_locks import LocksBusy, credential_locks
from ocm_wsgi.credentials.auth_file_reader import FileGone, FileProblem, read, read_with_retries
from ocm_wsgi.credentials.auth_file_writer import Replacement, prepare
from ocm_wsgi.credentials.refresh_protocol import JOB, OUTCOME, Problem, RefreshJob, RefreshOutcome, Result
from ocm_wsgi.credentials.refusal_store import Refusal, RefusalStore, digest_of
from ocm_wsgi.credentials.trust import context_from_json
from ocm_wsgi.credentials.unauthorized import ReplacedStore
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.oauth.refresh import RefreshFailed, RefreshReason, RefreshRefused, TokenGrant, exchange_refresh_token

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_POLL_SECONDS = 0.05


def refresh(job: RefreshJob) -> RefreshOutcome:
    """Refresh the credential of ``job``, unless another program has already done so."""
    timeout_seconds = job.timeouts.lock_seconds
    try:
        with credential_locks(job.credential_path, state_path=job.state_path, timeout_seconds=timeout_seconds):
            result = _Refresh(job).run()
    except LocksBusy as exc:
        return RefreshOutcome.failed(Problem.BUSY, str(exc))
    except FileNotFoundError:
        return RefreshOutcome(Result.CHANGED, detail="the file is gone")
    except OSError as exc:
        return RefreshOutcome.failed(Problem.UNWRITABLE, f"the locks cannot be acquired: {exc.strerror}")
    return _confirmed(job, result) if isinstance(result, Refusal) else result


class _Refresh:
    """The steps of a refresh that are done while holding the locks."""

    def __init__(self, job: RefreshJob) -> None:
        self._job = job
        self._refusals = RefusalStore(job.credential_path, state_path=job.state_path)

    def run(self) -> RefreshOutcome | Refusal:
        try:
            document = read_with_retries(self._job.credential_path).document
        except FileGone:
            return RefreshOutcome(Result.CHANGED, detail="the file is gone")
        except FileProblem as exc:
            return RefreshOutcome.failed(Problem.FILE, str(exc))
        if document.fingerprint != self._job.fingerprint:
            return RefreshOutcome(Result.CHANGED)
        refresh_token = document.refresh_token
        if refresh_token is None:
            return RefreshOutcome.failed(Problem.FILE, "it contains no refresh token")
        return self._exchange(document, refresh_token)

    def _exchange(self, document: Document, refresh_token: str) -> RefreshOutcome | Refusal:
        endpoint = self._job.settings.endpoint(document.provenance)
        digest = digest_of(refresh_token, endpoint)
        if refusal := self._refusals.find(digest):
            return refusal
        context = context_from_json(self._job.settings.trust)
        try:
            replacement = prepare(Path(os.path.realpath(self._job.credential_path)))
        except OSError as exc:
            problem = Problem.NO_SPACE if exc.errno in _NO_SPACE else Problem.UNWRITABLE
            return RefreshOutcome.failed(problem, f"{exc.strerror}; the refresh token was not presented")
        with replacement:
            try:
                grant = exchange_refresh_token(
                    refresh_token,
                    endpoint,
                    reason=self._job.reason,
                    ssl_context=context,
                    proxy_url=self._job.settings.proxy_url,
                )
            except RefreshFailed as exc:
                return RefreshOutcome.failed(Problem.ENDPOINT, exc.detail or "")
            except RefreshRefused as exc:
                return self._refusals.record(digest, exc.oauth_code)
            return self._store(document, grant, replacement)

    def _store(self, document: Document, grant: TokenGrant, replacement: Replacement) -> RefreshOutcome:
        """Write the new tokens, unless a Codex that takes no locks has written others in the meantime."""
        if not grant.tokens():
            return RefreshOutcome.failed(Problem.ENDPOINT, "the token endpoint's response contained no token")
        try:
            latest = read_with_retries(self._job.credential_path).document
        except FileGone:
            return RefreshOutcome(Result.CHANGED, detail="the file was removed during the refresh")
        except FileProblem:
            # Another writer was interrupted. The previous content is the better base for the new tokens.
            latest = document
        if latest.refresh_token != document.refresh_token:
            return RefreshOutcome(Result.CHANGED, detail="other tokens were written to the file during the refresh")
        refreshed = latest.refreshed(grant, now_ns=time.time_ns())
        try:
            replacement.commit(refreshed.encoded())
        except OSError as exc:
            return RefreshOutcome.failed(Problem.UNWRITABLE, f"the new tokens are lost: {exc.strerror}")
        if self._job.reason is RefreshReason.UNAUTHORIZED:
            store = ReplacedStore(self._job.credential_path, state_path=self._job.state_path)
            store.record(refreshed.fingerprint)
        return RefreshOutcome(Result.REFRESHED, fingerprint=refreshed.fingerprint)


def _confirmed(job: RefreshJob, refusal: Refusal) -> RefreshOutcome:
    """Wait, without holding the locks, for tokens that another program may have received for the same refresh token.

    Codex presents its refresh token without holding the locks and acquires them only to write. If it was first, our
    attempt was refused and its new tokens are about to be written.
    """
    deadline = refusal.refused_at + job.timeouts.adoption_seconds
    while True:
        try:
            if read(job.credential_path).document.fingerprint != job.fingerprint:
                return RefreshOutcome(Result.CHANGED)
        except FileGone:
            return RefreshOutcome(Result.CHANGED, detail="the file is gone")
        except FileProblem:
            pass
        if not 0 <= deadline - time.time() <= job.timeouts.adoption_seconds:
            return RefreshOutcome(Result.REFUSED, detail=refusal.oauth_code)
        time.sleep(_POLL_SECONDS)


def run(job: bytes) -> bytes:
    """Run a job, and return its outcome. Raises no error."""
    try:
        outcome = refresh(JOB.validate_json(job))
    except CredentialError as exc:
        outcome = RefreshOutcome.failed(Problem.FILE, exc.detail or exc.message)
    except Exception as exc:
        # Its message and traceback may quote a secret.
        outcome = RefreshOutcome.failed(Problem.PROCESS, type(exc).__name__)
    return OUTCOME.dump_json(outcome)


def main() -> None:
    """Run the job from standard input. Only ``SIGKILL`` interrupts it."""
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    outcome = run(sys.stdin.buffer.read())
    try:
        sys.stdout.buffer.write(outcome)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The worker is gone. Redirect standard output, or the interpreter would fail again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

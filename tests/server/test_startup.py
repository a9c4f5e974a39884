"""Whatever prevents the start is one sentence and an exit code: the real ``ocm serve``, and its parts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from ocm_wsgi.config import load
from ocm_wsgi.errors import ServerNotStarted, StateUnusable
from ocm_wsgi.server import instance
from ocm_wsgi.server.startup import suggest_next_step, worker_count
from ocm_wsgi.simulator import Plan
from tests.conftest import REPOSITORY
from tests.faults.outages import fill, small_file_system
from tests.forkserver import run_ocm

# root may do everything; without these capabilities it is like any other user.
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
NOBODY = 65534


def serve(
    folder: Path, *options: str, wrapper: tuple[str, ...] = (), environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run ``ocm serve``, which must end; return its exit code and everything that it printed."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OCM_LISTEN_PORT": "0", **(environ or {})}
    result = run_ocm("serve", *options, environment=environment, folder=folder, wrapper=wrapper)
    printed = result.stdout + result.stderr
    assert "Traceback" not in printed
    return result.returncode, printed


def last_line(printed: str) -> str:
    """Return the sentence that says why nothing started."""
    return printed.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "environ", "code", "sentence"),
    [
        ((), {"WEB_CONCURRENCY": "0"}, 1, "Error: WEB_CONCURRENCY is '0': it must be a number of workers, at least 1."),
        (("--workers", "0"), {}, 1, "The number of workers is 0: it must be at least 1."),
        ((), {"GUNICORN_CMD_ARGS": "-w 0"}, 1, "The number of workers is 0: it must be at least 1."),
        (("--workers", "many"), {}, 2, "Error: argument -w/--workers: invalid int value: 'many'."),
        (("--bogus",), {}, 2, "Error: unrecognized arguments: --bogus."),
        ((), {"GUNICORN_CMD_ARGS": "--bogus"}, 2, "Error: unrecognized arguments: --bogus in GUNICORN_CMD_ARGS."),
        (("other:app",), {}, 2, "Error: an application cannot be given; gunicorn runs others."),
        (("--bind", "127.0.0.1:http"), {}, 1, "Error: 'http' is not a valid port number."),
        (("--bind", "192.0.2.1:0"), {}, 1, "Choose an address of this machine with listen or --bind."),
        (("--config", "/nowhere.py"), {}, 1, "Error: '/nowhere.py' doesn't exist"),
        ((), {"OCM_CREDENTIAL_PHAT": "x"}, 1, "did you mean OCM_CREDENTIAL_PATH?)"),
    ],
)
def test_wrong_options(
    tmp_path: Path, options: tuple[str, ...], environ: Mapping[str, str], code: int, sentence: str
) -> None:
    """An invalid option or variable is named, with exit code 2 if it is one of the command line."""
    ended, printed = serve(tmp_path, *options, environ=environ)
    assert ended == code
    assert last_line(printed).endswith(sentence)


def file_in_its_place(state: Path) -> None:
    state.write_text("in the way")


def folder_of_another_user(state: Path) -> None:
    state.mkdir()
    os.chown(state, NOBODY, NOBODY)


def file_of_another_user(state: Path) -> None:
    state.mkdir()
    (state / "ocm.db").touch()
    os.chown(state / "ocm.db", NOBODY, NOBODY)


def unwritable_parent(state: Path) -> None:
    state.parent.chmod(0o500)


def unwritable_folder(state: Path) -> None:
    state.mkdir(mode=0o500)


@pytest.mark.parametrize(
    ("damage", "wrapper", "sentence"),
    [
        (file_in_its_place, (), "cannot be created: File exists. Set state_path to another one."),
        (folder_of_another_user, (), "/state belongs to the user nobody, and this is root: run this as nobody."),
        (file_of_another_user, (), "/ocm.db belongs to the user nobody, and this is root: run this as nobody, or give"),
        (unwritable_parent, AS_ANYBODY, "The user root may not write to the state folder"),
        (unwritable_folder, AS_ANYBODY, "The user root may not write to the state folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_state_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[Path], None], wrapper: tuple[str, ...], sentence: str
) -> None:
    """A state folder of another user, or without permission, is named, with what to do."""
    state = tmp_path / "parent" / "state"
    state.parent.mkdir()
    damage(state)
    try:
        code, printed = serve(tmp_path, wrapper=wrapper, environ={"OCM_STATE_PATH": str(state)})
    finally:
        state.parent.chmod(0o700)
    assert code == 1
    assert sentence in last_line(printed)


def test_command_of_another_user(tmp_path: Path) -> None:
    """A command does not leave root's files in the state of the service's user."""
    folder_of_another_user(tmp_path / "state")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OCM_STATE_PATH": str(tmp_path / "state")}
    result = run_ocm("add-user", "alice", environment=environ, folder=tmp_path)
    assert result.returncode == 1
    assert (
        result.stderr == f"Error: {tmp_path}/state belongs to the user nobody, and this is root: run this as nobody.\n"
    )
    assert list((tmp_path / "state").iterdir()) == []


def test_state_on_a_full_disk(tmp_path: Path) -> None:
    """A full disk is named: nothing could be recorded."""
    state = tmp_path / "state"
    with small_file_system(state):
        fill(state / "filler")
        code, printed = serve(tmp_path, environ={"OCM_STATE_PATH": str(state)})
    assert code == 1
    assert last_line(printed).endswith(f"The disk of the state folder {state} is full: free some space.")


def test_address_in_use(tmp_path: Path) -> None:
    """After some seconds in which its predecessor could have ended, an address in use prevents the start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, printed = serve(tmp_path, "--bind", address)
    assert code == 1
    assert printed.count("Address already in use; retrying for 4 s") == 1
    sentence = "Stop the program that listens there, or choose another port with listen_port or --bind."
    assert last_line(printed).endswith(f"Cannot listen at {address}: [Errno 98] Address already in use. {sentence}")


def test_unix_socket_in_use(tmp_path: Path) -> None:
    """A Unix socket on which a server listens is not taken from it."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(path)
        taken.listen()
        code, printed = serve(tmp_path, "--bind", f"unix:{path}")
        assert code == 1
        assert last_line(printed).endswith(f"Another server listens at unix:{path}. Stop it, or choose another path.")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_second_instance_on_one_state(service: Any, tmp_path: Path) -> None:
    """While an instance serves, no other one starts on its state; while it only finishes turns, one does."""
    running = service(workers=1)
    state = str(running.state_path)
    assert requests.get(f"{running.url}/ocm/healthz", timeout=30).status_code == 200
    code, printed = serve(tmp_path, environ={"OCM_STATE_PATH": state})
    assert code == 1
    sentence = f"Another instance of the service (process {running.pid}) uses {state}: stop it, or set state_path to"
    assert sentence in last_line(printed)
    gate = running.simulator.gate().after(1)
    running.simulator.plan(Plan(text="All of it.", gate=gate))
    headers = {"Authorization": "Bearer sk-ocm-alice-0123456789abcdef"}
    body = {"model": "gpt-5.5", "stream": True}
    url = f"{running.url}/v1/responses"
    with requests.post(url, json=body, headers=headers, stream=True, timeout=30) as response:
        pieces = response.iter_content(None)
        first = next(pieces)
        os.kill(running.pid, signal.SIGTERM)
        while b"Handling signal: term" not in (running.folder / "service.log").read_bytes():
            time.sleep(0.02)
        successor = service(workers=1, state_path=state)
        assert requests.get(f"{successor.url}/ocm/healthz", timeout=30).status_code == 200
        gate.release()
        assert b"response.completed" in first + b"".join(pieces)
    assert running.process.wait(60) == 0


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[Path]:
    """Return a state folder, which is free again after the test."""
    yield tmp_path
    instance.release()


def test_claim_is_exclusive(claimed: Path) -> None:
    """A state that is held is refused, until it is released."""
    instance.claim(claimed, is_shared=False, is_successor=False)
    held = instance._Held.descriptor
    for is_shared in (False, True):
        with pytest.raises(StateUnusable, match=rf"\(process {os.getpid()}\)"):
            instance.claim(claimed, is_shared=is_shared, is_successor=False)
    assert instance._Held.descriptor == held
    instance.release()
    instance.release()
    instance.claim(claimed, is_shared=False, is_successor=False)


def test_claim_can_be_shared(claimed: Path) -> None:
    """Instances that share their address also share the state."""
    instance.claim(claimed, is_shared=True, is_successor=False)
    first = instance._Held.descriptor
    assert first is not None
    instance.claim(claimed, is_shared=True, is_successor=False)
    os.close(first)


def test_successor_inherits_the_claim(claimed: Path) -> None:
    """A process started by exec holds the state beside its parent, and after it."""
    instance.claim(claimed, is_shared=False, is_successor=False)
    code = (
        "import sys; from pathlib import Path; from ocm_wsgi.server import instance\n"
        f"instance.claim(Path({str(claimed)!r}), is_shared=False, is_successor=True)\n"
        "print('claimed', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=-1, stdout=-1, text=True, close_fds=False
    ) as successor:
        assert successor.stdout is not None
        assert successor.stdout.readline() == "claimed\n"
        instance.release()
        with pytest.raises(StateUnusable, match=rf"\(process {successor.pid}\)"):
            instance.claim(claimed, is_shared=False, is_successor=False)
        successor.communicate()
    instance.claim(claimed, is_shared=False, is_successor=False)


@pytest.mark.parametrize(("given", "count"), [(None, 2), ("", 2), (" ", 2), ("1", 1), (" 8 ", 8)])
def test_worker_count(given: str | None, count: int) -> None:
    """WEB_CONCURRENCY sets the number of workers; unset or empty it is two."""
    assert worker_count({} if given is None else {"WEB_CONCURRENCY": given}) == count


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "two", "1e3", "²", "٣", "0x2"])
def test_invalid_worker_count(given: str) -> None:
    """Anything but a positive number is refused."""
    with pytest.raises(ServerNotStarted, match="at least 1"):
        worker_count({"WEB_CONCURRENCY": given})


def test_first_start_shows_the_next_step(service: Any) -> None:
    """Without a credential the log says what to do next, once; with one it does not."""
    without = service(workers=1, credential=None)
    assert requests.get(f"{without.url}/ocm/healthz", timeout=30).status_code == 200
    assert without.log_text().count("Next step: ocm login") == 1
    assert f"no Codex credential at {without.credential_path} yet" in without.log_text()
    with_credential = service(workers=1)
    assert requests.get(f"{with_credential.url}/ocm/healthz", timeout=30).status_code == 200
    assert "Next step" not in with_credential.log_text()


@pytest.mark.parametrize(
    ("signed_in", "expected"),
    [((), "Next step: ocm login --credential work ("), (("spare",), "")],
    ids=["nobody", "one-of-two"],
)
def test_next_step_with_several_accounts(tmp_path: Path, signed_in: tuple[str, ...], expected: str) -> None:
    """The step is shown if no account is signed in, and names the first one."""
    entries = [{"tag": tag, "credential_path": f"{tmp_path}/{tag}.json"} for tag in ("work", "spare")]
    (tmp_path / "ocm.json").write_text(json.dumps({"credentials": entries}))
    for tag in signed_in:
        (tmp_path / f"{tag}.json").touch()
    logged: list[str] = []
    arbiter = SimpleNamespace(log=SimpleNamespace(warning=lambda text, *values: logged.append(text % values)))
    suggest_next_step(arbiter, load({"HOME": str(tmp_path)}, tmp_path))
    assert [expected in line for line in logged] == ([True] if expected else [])

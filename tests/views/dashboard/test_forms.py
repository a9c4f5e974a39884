"""Forms of strangers: how large they may be, and what they cost others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ocm_wsgi.protocol.http.form_arrival import MAX_FORM_BYTES, MAX_FORM_FIELDS
from ocm_wsgi.simulator import Simulator
from tests.api_requests import connected, post, read_response
from tests.conftest import RunningService, start_service

URL_ENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="bearer_token"; filename="f"\r\n\r\n'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two threads."""
    folder = tmp_path_factory.mktemp("forms") / "service"
    with Simulator() as simulator, start_service(simulator, folder, workers=1, arguments=("--threads", "2")) as started:
        yield started


def form_head(length: int | str, media_type: str = URL_ENCODED, *fields: str, path: str = "/ocm/sign-in") -> bytes:
    """Return the head of a form."""
    lines = [f"POST {path} HTTP/1.1", "Host: ocm", f"Content-Type: {media_type}", f"Content-Length: {length}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        pytest.param(form_head(MAX_FORM_BYTES + 1), "at most 50 fields and 64 KiB", id="announces-too-much"),
        pytest.param(form_head(300 * 2**20), "at most 50 fields and 64 KiB", id="announces-a-disk-full"),
        pytest.param(
            form_head(2 * MAX_FORM_FIELDS + 1) + b"a&" * MAX_FORM_FIELDS + b"a",
            "at most 50 fields and 64 KiB",
            id="too-many-fields",
        ),
        pytest.param(form_head(len(PART), MULTIPART) + PART, "must be URL-encoded", id="multipart"),
        pytest.param(form_head(2, "application/json") + b"{}", "must be URL-encoded", id="other-media-type"),
        pytest.param(form_head(3, URL_ENCODED, "Expect: 100-continue"), "must not wait", id="expects-100-continue"),
        pytest.param(
            form_head(3).replace(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"3\r\na=b\r\n",
            "have a Content-Length",
            id="chunked",
        ),
    ],
)
def test_form_that_no_browser_sends(running: RunningService, request_: bytes, words: str) -> None:
    """It is refused before it has arrived, so that nothing of it can be written to disk."""
    with connected(running) as connection:
        connection.sendall(request_)
        status, _, body = read_response(connection)
        assert status == 400
        assert words in body.decode()


@pytest.mark.parametrize("path", ["/ocm/sign-in", "/ocm/users", "/ocm/sign-out", "/ocm/users/zed?x=/v1/"])
def test_form_of_the_largest_size(running: RunningService, path: str) -> None:
    """It is read, and refused only because it has no form token."""
    content = b"bearer_token=" + b"x" * (MAX_FORM_BYTES - len("bearer_token="))
    with connected(running) as connection:
        connection.sendall(form_head(len(content), path=path) + content)
        status, _, body = read_response(connection)
        assert (status, b"This form has expired" in body) == (400, True)


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(form_head(100) + b"bearer_token=", id="half"),
        pytest.param(form_head(100).lower().replace(b"post /ocm", b"POST /ocm"), id="fields-in-lower-case"),
        pytest.param(form_head(100, path="/ocm/users?x=/v1/") + b"name=", id="other-page"),
    ],
)
def test_half_forms_delay_no_others(running: RunningService, beginning: bytes) -> None:
    """50 forms that do not arrive occupy neither of the two threads."""
    with ExitStack() as connections:
        for _ in range(50):
            connections.enter_context(connected(running)).sendall(beginning)
        assert post(running).status_code == 200

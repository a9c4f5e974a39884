"""What is recorded of images, audio and video if upstream reports it in part or not at all."""

from __future__ import annotations

import pytest

from ocm_wsgi.accounting.media_estimates import completed_usage
from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.media import MediaRequest, media_request
from ocm_wsgi.protocol.responses.turn import Outcome, TurnStatus, Usage


def known(
    family: Family,
    request: MediaRequest,
    reported: Usage | None = None,
    *,
    status: TurnStatus = "completed",
    http_status: int = 200,
    by_tokens: bool = True,
) -> tuple[Usage | None, bool]:
    return completed_usage(
        family, Outcome(status, usage=reported), request, http_status=http_status, by_tokens=lambda: by_tokens
    )


IMAGES = MediaRequest(pieces=2, text_tokens=9)
TEXT = MediaRequest(characters=1000)
FILE = MediaRequest(octets=64_000)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(
            known("images", IMAGES, Usage(0, 0, 0, items=2)),
            (Usage(9, 0, 12_480, image_output_tokens=12_480, items=2), True),
            id="images-without-tokens",
        ),
        pytest.param(
            known("images", IMAGES, status="cut"),
            (Usage(9, 0, 12_480, image_output_tokens=12_480, items=2), True),
            id="images-that-the-client-left",
        ),
        pytest.param(
            known("images", IMAGES, Usage(0, 0, 0, items=2), by_tokens=False),
            (Usage(0, 0, 0, items=2), False),
            id="images-by-the-piece",
        ),
        pytest.param(known("images", IMAGES, Usage(5, 0, 9, items=2)), (Usage(5, 0, 9, items=2), False), id="images"),
        pytest.param(known("images", IMAGES, status="error"), (None, False), id="failed-images"),
        pytest.param(known("images", IMAGES, status="error", http_status=400), (None, False), id="refused-images"),
        pytest.param(known("speech", TEXT, by_tokens=False), (Usage(0, 0, 0, characters=1000), False), id="speech"),
        pytest.param(
            known("speech", TEXT, status="cut"),
            (Usage(334, 0, 1600, audio_output_tokens=1600, characters=1000), True),
            id="speech-by-tokens",
        ),
        pytest.param(
            known("speech", TEXT, Usage(9, 0, 70, audio_output_tokens=70)),
            (Usage(9, 0, 70, audio_output_tokens=70, characters=1000), False),
            id="speech-reported",
        ),
        pytest.param(
            known("transcription", FILE, by_tokens=False), (Usage(0, 0, 0, media_ms=32_000), True), id="transcription"
        ),
        pytest.param(
            known("transcription", FILE),
            (Usage(320, 0, 160, audio_input_tokens=320), True),
            id="transcription-by-tokens",
        ),
        pytest.param(known("video", MediaRequest(seconds=8)), (Usage(0, 0, 0, media_ms=8000), True), id="video"),
        pytest.param(known("video", MediaRequest()), (Usage(0, 0, 0, media_ms=20_000), True), id="longest-video"),
        pytest.param(known("container", MediaRequest()), (Usage(0, 0, 0, items=1), True), id="container"),
    ],
)
def test_completed_usage(found: tuple[Usage | None, bool], expected: tuple[Usage | None, bool]) -> None:
    """What the request ordered is recorded where upstream reports nothing; only what it does not say is estimated."""
    assert found == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, MediaRequest()),
        ({"input": "héllo", "n": 3, "seconds": "8"}, MediaRequest(characters=5, pieces=3, seconds=8)),
        ({"prompt": "a fox", "n": "2"}, MediaRequest(pieces=2, text_tokens=2)),
        ({"input": ["x"], "prompt": {"id": "p"}, "n": True, "seconds": -4}, MediaRequest()),
        ({"n": 10**9, "seconds": "9" * 30}, MediaRequest(pieces=100)),
        ({"n": "٣", "seconds": 4.5}, MediaRequest()),
    ],
)
def test_media_request(members: dict[str, object], expected: MediaRequest) -> None:
    """Counts are read from JSON and from forms, and nonsense counts as absent."""
    assert media_request(members) == expected

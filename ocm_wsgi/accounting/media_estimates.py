"""Completes what upstream reports of turns with images, audio and video by what their requests ordered. Pure; no I/O.

What the request says exactly, such as the characters to be spoken, is recorded as such. The rest is an estimate that is
never too low: the dearest image, the longest video, audio in the most compact coding that is common for speech.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.media import MediaRequest
from ocm_wsgi.protocol.responses.turn import Outcome, Usage

#: Tokens of the largest image at high quality, 1536 by 1024.
IMAGE_TOKENS = 6_240

#: Tokens of audio for a character that is spoken: some 20 in a second, in which 13 characters are spoken at most.
SPEECH_TOKENS_PER_CHARACTER = 1.6
CHARACTERS_PER_TOKEN = 3

#: Bytes of an uploaded file that count as a second: speech at 16 kbit/s.
BYTES_PER_SECOND = 2_000
#: Tokens of a second of audio in the input, and of its text in the output.
AUDIO_TOKENS_PER_SECOND = 10
TEXT_TOKENS_PER_SECOND = 5

#: The longest video, in seconds.
LONGEST_VIDEO_SECONDS = 20


@dataclass(frozen=True)
class Ordered:
    """A turn whose usage is not known in full.

    :ivar request: what was ordered.
    :ivar reported: what upstream has reported, or ``None``.
    :ivar by_tokens: whether the model is billed by tokens.
    """

    request: MediaRequest
    reported: Usage | None
    by_tokens: bool


def completed_usage(
    family: Family, outcome: Outcome, request: MediaRequest, *, http_status: int, by_tokens: Callable[[], bool]
) -> tuple[Usage | None, bool]:
    """Return the usage of a turn of one of these families, and whether it is an estimate.

    :param by_tokens: returns whether the model is billed by tokens; called only if it matters.
    """
    reported = outcome.usage
    if http_status >= 400 or (outcome.status in ("failed", "error") and reported is None):
        return reported, False
    return _COMPLETE[family](Ordered(request, reported, by_tokens())) if family in _COMPLETE else (reported, False)


def is_media(family: Family) -> bool:
    """Return whether :func:`completed_usage` knows more about an endpoint of this kind than upstream reports."""
    return family in _COMPLETE


def _images(ordered: Ordered) -> tuple[Usage | None, bool]:
    reported, request = ordered.reported, ordered.request
    if reported is not None and (reported.output_tokens or not ordered.by_tokens):
        return reported, False
    items = reported.items if reported is not None else request.pieces
    if not ordered.by_tokens:
        return Usage(0, 0, 0, items=items), True
    output = IMAGE_TOKENS * items
    return Usage(request.text_tokens, 0, output, image_output_tokens=output, items=items), True


def _speech(ordered: Ordered) -> tuple[Usage | None, bool]:
    characters = ordered.request.characters
    if ordered.reported is not None:
        return replace(ordered.reported, characters=characters), False
    if not ordered.by_tokens:
        return Usage(0, 0, 0, characters=characters), False
    spoken = math.ceil(characters * SPEECH_TOKENS_PER_CHARACTER)
    written = -(-characters // CHARACTERS_PER_TOKEN)
    return Usage(written, 0, spoken, audio_output_tokens=spoken, characters=characters), True


def _transcription(ordered: Ordered) -> tuple[Usage | None, bool]:
    if ordered.reported is not None:
        return ordered.reported, False
    seconds = ordered.request.octets / BYTES_PER_SECOND
    if not ordered.by_tokens:
        return Usage(0, 0, 0, media_ms=math.ceil(seconds * 1000)), True
    audio = math.ceil(seconds * AUDIO_TOKENS_PER_SECOND)
    return Usage(audio, 0, math.ceil(seconds * TEXT_TOKENS_PER_SECOND), audio_input_tokens=audio), True


def _video(ordered: Ordered) -> tuple[Usage | None, bool]:
    if ordered.reported is not None:
        return ordered.reported, False
    return Usage(0, 0, 0, media_ms=1000 * (ordered.request.seconds or LONGEST_VIDEO_SECONDS)), True


def _one_item(ordered: Ordered) -> tuple[Usage | None, bool]:
    return (Usage(0, 0, 0, items=1), True) if ordered.reported is None else (ordered.reported, False)


_COMPLETE: Mapping[Family, Callable[[Ordered], tuple[Usage | None, bool]]] = {
    "images": _images,
    "speech": _speech,
    "transcription": _transcription,
    "video": _video,
    "moderation": _one_item,
    "container": _one_item,
}

"""What a request for images, audio or video orders, as far as it is billed by that. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The members of a request that :func:`media_request` reads.
MEDIA_MEMBERS = ("input", "prompt", "n", "seconds")

_MOST_PIECES = 100
_LONGEST_SECONDS = 3600
_OCTETS_PER_TOKEN = 3


@dataclass(frozen=True)
class MediaRequest:
    """What a request orders.

    :ivar characters: to be spoken.
    :ivar pieces: how many images, at least 1.
    :ivar seconds: the length of a video, or 0 if the request does not say.
    :ivar text_tokens: estimate of the text that describes an image.
    :ivar octets: the length of the body, almost all of which is a file in a request that has one.
    """

    characters: int = 0
    pieces: int = 1
    seconds: int = 0
    text_tokens: int = 0
    octets: int = 0


NOTHING_ORDERED = MediaRequest()


def media_request(members: Mapping[str, Any], *, octets: int = 0) -> MediaRequest:
    """Return what the members of a request, in JSON or in a form, order.

    :param octets: the length of the body.
    """
    spoken, prompt = members.get("input"), members.get("prompt")
    return MediaRequest(
        characters=len(spoken) if isinstance(spoken, str) else 0,
        pieces=_count(members.get("n"), most=_MOST_PIECES) or 1,
        seconds=_count(members.get("seconds"), most=_LONGEST_SECONDS),
        text_tokens=-(-len(prompt.encode("utf-8", "replace")) // _OCTETS_PER_TOKEN) if isinstance(prompt, str) else 0,
        octets=octets,
    )


def _count(value: object, *, most: int) -> int:
    """Return a count that is a number or text, or 0; one that is too large for upstream is cut."""
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return 0
    return min(value, most)

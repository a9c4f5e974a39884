"""Reads what a turn used out of upstream's answer, in each of the shapes that endpoints have. Pure; no I/O.

The only module that knows where these counts are. Text is what remains of the tokens after those of images and audio.

Source: the types of OpenAI's library for Python, 3.57.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses.turn import ToolUsage, Usage

# The largest integer that SQLite and PostgreSQL can hold. A larger count is an error.
_LARGEST_COUNT = 2**63 - 1

# The realtime API and transcriptions say `token` where others say `tokens`.
_INPUT_DETAILS = ("input_tokens_details", "input_token_details", "prompt_tokens_details")
_OUTPUT_DETAILS = ("output_tokens_details", "output_token_details", "completion_tokens_details")

_NO_TOKENS = Usage(0, 0, 0)

# Calls of hosted tools in the output of a response.
_WEB_SEARCH = "web_search_call"
_FILE_SEARCH = "file_search_call"


def answer_usage(body: Mapping[str, Any], family: Family) -> Usage | None:
    """Return the usage in the body of an answer, or in the event that ends a turn.

    :return: ``None`` if the body does not report it, or reports values that are not counts.
    """
    usage = usage_of(body.get("usage"), family)
    read_more = _BY_FAMILY.get(family)
    return usage if read_more is None else read_more(body, usage)


def usage_of(usage: Any, family: Family = "responses") -> Usage | None:
    """Return the usage in an object that reports it.

    :return: ``None`` if the object is absent or null, names no tokens and no time, or holds values that are not counts.
    """
    if not isinstance(usage, dict):
        return None
    if usage.get("type") == "duration" or "seconds" in usage:
        return _of_seconds(usage.get("seconds"))
    input_tokens = usage.get("input_tokens", usage.get("prompt_tokens"))
    output_tokens = usage.get("output_tokens", usage.get("completion_tokens"))
    if input_tokens is None and output_tokens is None:
        return None
    input_details, output_details = _object(usage, *_INPUT_DETAILS), _object(usage, *_OUTPUT_DETAILS)
    # The image tool of the Responses API reports cached tokens beside the details, and names them differently.
    cached = _object(input_details, "cached_tokens_details") or _object(usage, "cached_tokens_details")
    image_output: Any = output_details.get("image_tokens") or 0
    audio_output: Any = output_details.get("audio_tokens") or 0
    audio_input: Any = input_details.get("audio_tokens") or 0
    # Without details, an image model writes images, a voice model speaks, and a transcription model listens.
    if not output_details and family == "images":
        image_output = output_tokens or 0
    elif not output_details and family == "speech":
        audio_output = output_tokens or 0
    elif not input_details and family == "transcription":
        audio_input = input_tokens or 0
    # In the order of the fields of ``Usage``.
    counts: tuple[Any, ...] = (
        input_tokens or 0,
        input_details.get("cached_tokens") or usage.get("cached_tokens") or 0,
        output_tokens or 0,
        output_details.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0,
        input_details.get("cache_write_tokens") or 0,
        input_details.get("image_tokens") or 0,
        cached.get("image_tokens") or cached.get("cached_image_tokens") or 0,
        image_output,
        audio_input,
        cached.get("audio_tokens") or 0,
        audio_output,
    )
    for count in counts:
        if type(count) is not int or not 0 <= count <= _LARGEST_COUNT:
            return None
    return Usage(*counts)


def tool_usage_of(body: Mapping[str, Any]) -> ToolUsage | None:
    """Return what the hosted tools of a Responses object used beside the model itself, or ``None`` for nothing.

    These tokens are not part of ``usage``. Searches that upstream does not report are counted from the output.
    """
    tools, output = _object(body, "tool_usage"), body.get("output")
    calls = [item for item in output if _is_search(item)] if isinstance(output, list) else []
    if not tools and not calls:
        return None
    reported: Any = _object(tools, "web_search").get("num_requests")
    usage = ToolUsage(
        images=usage_of(tools.get("image_gen"), "images") or _NO_TOKENS,
        web_searches=reported if _is_count(reported) else sum(map(_is_billed_web_search, calls)),
        file_searches=sum(call["type"] == _FILE_SEARCH for call in calls),
    )
    return None if usage == ToolUsage() else usage


def added(*usages: Usage) -> Usage:
    """Return the sum of some usages."""
    return Usage(*(sum(counts) for counts in zip(*map(_counts, usages), strict=True)))


def _counts(usage: Usage) -> Iterable[int]:
    return vars(usage).values()


def _images(body: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    """Add the number of images, and the tokens for writing SVG. Older models report nothing else."""
    images = body.get("data")
    svg = usage_of(body.get("svg_usage"))
    reported = [each for each in (usage, svg) if each is not None]
    if isinstance(images, list) and images:
        reported.append(Usage(0, 0, 0, items=len(images)))
    return added(*reported) if reported else None


def _transcription(body: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    """Use the length of the audio, if that is all that is reported."""
    return usage if usage is not None else _of_seconds(body.get("duration"))


def _video(body: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    """Use the length that was ordered, which is what is billed."""
    return usage if usage is not None else _of_seconds(body.get("seconds"))


def _moderation(body: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    results = body.get("results")
    return usage if usage is not None or not isinstance(results, list) else Usage(0, 0, 0, items=len(results))


def _one_item(_: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    return usage if usage is not None else Usage(0, 0, 0, items=1)


def _training(body: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    """Use the tokens that a job has trained on, which are reported when it has ended."""
    trained: Any = body.get("trained_tokens")
    return Usage(trained, 0, 0) if usage is None and _is_count(trained) else usage


def _eval(body: Mapping[str, Any], usage: Usage | None) -> Usage | None:
    """Add up what a run used, by model."""
    by_model = body.get("per_model_usage")
    if usage is not None or not isinstance(by_model, list):
        return usage
    usages = [usage_of({**each, "prompt_tokens_details": each}) for each in by_model if isinstance(each, dict)]
    known = [each for each in usages if each is not None]
    return added(*known) if known and len(known) == len(by_model) else None


_BY_FAMILY: Mapping[Family, Callable[[Mapping[str, Any], Usage | None], Usage | None]] = {
    "images": _images,
    "transcription": _transcription,
    "video": _video,
    "moderation": _moderation,
    "search": _one_item,
    "container": _one_item,
    "fine_tuning": _training,
    "eval": _eval,
}


def _of_seconds(seconds: Any) -> Usage | None:
    """Return the usage of some time, reported as a number or as text."""
    try:
        milliseconds = round(float(seconds) * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
    return Usage(0, 0, 0, media_ms=milliseconds) if 0 <= milliseconds <= _LARGEST_COUNT else None


def _is_search(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") in (_WEB_SEARCH, _FILE_SEARCH)


def _is_billed_web_search(call: Mapping[str, Any]) -> bool:
    """Return whether a call is a search of the web. Opening a page and the like is not billed."""
    action: Any = _object(call, "action").get("type", "search")
    return call["type"] == _WEB_SEARCH and bool(action == "search")


def _object(body: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the first of some members that is an object, else an empty one."""
    for name in names:
        found = body.get(name)
        if isinstance(found, dict):
            return found
    return {}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT

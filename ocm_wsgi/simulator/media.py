"""The platform's endpoints for images, speech, transcription, moderation, video and search.

Each bills what its own rule says, reports it in OpenAI's shape, and records it in the journal.
"""

from __future__ import annotations

import base64
import email
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ocm_wsgi.simulator.exchange import Event, Exchange, Response
from ocm_wsgi.simulator.model import as_sse, new_id
from ocm_wsgi.simulator.recording import Turn

#: What one image costs in tokens, in the output and in the input.
IMAGE_OUTPUT_TOKENS = 1056
IMAGE_INPUT_TOKENS = 323
#: Audio of one second, in bytes of an uploaded file and in tokens.
BYTES_PER_SECOND = 32_000
AUDIO_TOKENS_PER_SECOND = 10

_PIXEL = base64.b64encode(b"\x89PNG simulated").decode()


def images(exchange: Exchange) -> Response:
    """``POST /v1/images/generations``, ``/edits`` and ``/variations``, as one object or as a stream."""
    request = _request(exchange)
    count = int(request.get("n") or 1)
    given = len(request["_files"])
    text, image_input = _words(request.get("prompt")), IMAGE_INPUT_TOKENS * given
    bills_tokens = "dall-e" not in str(request.get("model")) and exchange.plan.usage is not None
    billed: dict[str, int] = {"items": count}
    if bills_tokens:
        output = IMAGE_OUTPUT_TOKENS * count
        billed |= _tokens(text + image_input, output, image_input_tokens=image_input, image_output_tokens=output)
    if _is_true(request.get("stream")):
        kind = "image_edit" if exchange.path.endswith("/edits") else "image_generation"
        # The first image is charged for the input.
        usages = [
            _image_usage(*given, 1) if bills_tokens else None for given in [(text, image_input), *[(0, 0)] * count]
        ]
        return _streamed(exchange, request, billed, _image_events(kind, usages[:count]))
    body: dict[str, Any] = {"created": int(exchange.world.journal.clock()), "data": [{"b64_json": _PIXEL}] * count}
    if bills_tokens:
        body["usage"] = _image_usage(text, image_input, count)
    return _answered(exchange, request, billed, body)


def _image_usage(text: int, image_input: int, count: int) -> dict[str, Any]:
    output = IMAGE_OUTPUT_TOKENS * count
    return {
        "input_tokens": text + image_input,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image_input},
        "output_tokens": output,
        "total_tokens": text + image_input + output,
    }


def _image_events(kind: str, usages: list[dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    yield {"type": f"{kind}.partial_image", "partial_image_index": 0, "b64_json": _PIXEL}
    for usage in usages:
        yield {"type": f"{kind}.completed", "b64_json": _PIXEL, "usage": usage}


def speech(exchange: Exchange) -> Response:
    """``POST /v1/audio/speech``: audio without usage, or a stream of events with it."""
    request = exchange.object()
    text = str(request.get("input", ""))
    if request.get("stream_format") != "sse":
        audio = Event(b"RIFF simulated " * len(text), "completed")
        return Response(
            200,
            (("Content-Type", "audio/mpeg"),),
            (audio,),
            finish=_finish(exchange, request, {"characters": len(text)}),
        )
    words, output = _words(text), AUDIO_TOKENS_PER_SECOND * _words(text)
    usage = {"input_tokens": words, "output_tokens": output, "total_tokens": words + output}
    events: list[dict[str, Any]] = [
        {"type": "speech.audio.delta", "audio": _PIXEL},
        {"type": "speech.audio.done", "usage": usage},
    ]
    billed = _tokens(words, output, audio_output_tokens=output) | {"characters": len(text)}
    return _streamed(exchange, request, billed, iter(events))


def transcription(exchange: Exchange) -> Response:
    """``POST /v1/audio/transcriptions`` and ``/translations``, in every format of the answer."""
    request = _request(exchange)
    seconds = sum(map(len, request["_files"])) / BYTES_PER_SECOND
    audio, output = int(seconds * AUDIO_TOKENS_PER_SECOND), _words(exchange.plan.text)
    is_timed = str(request.get("model")).startswith("whisper")
    usage: dict[str, Any] = {"type": "duration", "seconds": seconds}
    billed = {"media_ms": round(seconds * 1000)}
    if not is_timed:
        details = {"audio_tokens": audio, "text_tokens": 0}
        usage = {"type": "tokens", "input_tokens": audio, "input_token_details": details, "output_tokens": output}
        billed = _tokens(audio, output, audio_input_tokens=audio)
    if _is_true(request.get("stream")):
        done = {"type": "transcript.text.done", "text": exchange.plan.text, "usage": usage}
        return _streamed(exchange, request, billed, iter([{"type": "transcript.text.delta", "delta": "x"}, done]))
    answer_format = request.get("response_format", "json")
    if answer_format in ("text", "srt", "vtt"):
        text = Event(exchange.plan.text.encode(), "completed")
        return Response(
            200, (("Content-Type", "text/plain; charset=utf-8"),), (text,), finish=_finish(exchange, request, billed)
        )
    body: dict[str, Any] = {"text": exchange.plan.text}
    if answer_format == "verbose_json":
        body |= {"duration": seconds, "language": "english"}
    elif not exchange.path.endswith("/translations"):
        body["usage"] = usage
    return _answered(exchange, request, billed, body)


def moderations(exchange: Exchange) -> Response:
    """``POST /v1/moderations``, which is free."""
    request = exchange.object()
    given = request.get("input")
    count = len(given) if isinstance(given, list) else 1
    body = {"id": new_id("modr"), "model": request.get("model"), "results": [{"flagged": False}] * count}
    return _answered(exchange, request, {"items": count}, body)


def video(exchange: Exchange) -> Response:
    """``POST /v1/videos`` and what makes another one of a video; billed by the seconds ordered."""
    request = _request(exchange)
    seconds = str(request.get("seconds") or "4")
    made = {
        "id": new_id("video"),
        "object": "video",
        "model": request.get("model") or "sora-2",
        "status": "queued",
        "progress": 0,
        "seconds": seconds,
        "size": "720x1280",
    }
    exchange.world.objects.add("videos", {**made, "status": "completed", "progress": 100})
    return _answered(exchange, request, {"media_ms": int(seconds) * 1000}, made)


def vector_search(exchange: Exchange) -> Response:
    """``POST /v1/vector_stores/{id}/search``."""
    return _answered(exchange, {}, {"items": 1}, {"object": "vector_store.search_results.page", "data": []})


def _request(exchange: Exchange) -> dict[str, Any]:
    """Return the members of a body of JSON or of a form; its files are the member ``_files``."""
    content_type = exchange.head.field("Content-Type") or ""
    if not content_type.startswith("multipart/"):
        return {**exchange.object(), "_files": []}
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    request: dict[str, Any] = {"_files": []}
    for part in email.message_from_bytes(head + exchange.body.content).walk():
        if part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if part.get_filename() is not None:
            request["_files"].append(content)
        else:
            request[str(part.get_param("name", header="content-disposition"))] = content.decode()
    return request


def _answered(
    exchange: Exchange, request: Mapping[str, Any], billed: Mapping[str, int], body: Mapping[str, Any]
) -> Response:
    event = Event(json.dumps(body).encode(), "completed")
    return Response(200, (("Content-Type", "application/json"),), (event,), finish=_finish(exchange, request, billed))


def _streamed(
    exchange: Exchange, request: Mapping[str, Any], billed: Mapping[str, int], events: Iterator[dict[str, Any]]
) -> Response:
    def rendered() -> Iterator[Event]:
        waiting = next(events)
        for event in events:
            yield Event(as_sse(waiting))
            waiting = event
        yield Event(as_sse(waiting), "completed")

    return Response(
        200,
        (("Content-Type", "text/event-stream; charset=utf-8"),),
        rendered(),
        is_streamed=True,
        finish=_finish(exchange, request, billed, transport="sse"),
    )


def _finish(
    exchange: Exchange, request: Mapping[str, Any], billed: Mapping[str, int], *, transport: str = "json"
) -> Any:
    def finish(status: str) -> None:
        counts = {name: billed.get(name, 0) for name in ("input_tokens", "output_tokens")}
        others = {name: value for name, value in billed.items() if name not in counts}
        exchange.world.journal.add_turn(
            Turn(
                number=exchange.number,
                response_id="",
                model=str(request.get("model") or ""),
                service_tier="default",
                transport=transport,
                cached_tokens=0,
                reasoning_tokens=0,
                account=exchange.account,
                status=status,
                others=others,
                **counts,
            )
        )

    return finish


def _is_true(value: object) -> bool:
    """Return whether a member is true, in JSON or in a form."""
    return value not in (None, False, "false")


def _tokens(input_tokens: int, output_tokens: int, **others: int) -> dict[str, int]:
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, **others}


def _words(text: object) -> int:
    return len(str(text or "").split())

"""A model's output: the events and objects of the Responses API, and their token counts.

Pure: turns a request's JSON and a plan into events. Transports render these (:func:`as_sse`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ocm_wsgi.simulator import tokens
from ocm_wsgi.simulator.exchange import Event
from ocm_wsgi.simulator.plans import Plan
from ocm_wsgi.simulator.recording import Turn

#: The error of a ``response.failed`` whose plan has none.
DEFAULT_ERROR = ("server_error", "The simulated model failed.")

Emit = Callable[[str, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Output:
    """The output of one turn, to be sent.

    :ivar request: the ``response.create`` body.
    :ivar number: the request's number in the journal.
    :ivar account: see :class:`~ocm_wsgi.simulator.recording.Turn`.
    """

    request: Mapping[str, Any]
    plan: Plan
    response_id: str
    created_at: int
    number: int
    account: str

    @property
    def model(self) -> str:
        return self.plan.model or str(self.request.get("model", "gpt-5.5"))

    @property
    def service_tier(self) -> str:
        requested = self.request.get("service_tier") or "default"
        return self.plan.service_tier or ("default" if requested == "auto" else str(requested))

    @property
    def deltas(self) -> list[str]:
        """The text, split into the planned number of deltas."""
        words = [word + " " for word in self.plan.text.split(" ")]
        words[-1] = words[-1].rstrip(" ")
        count = self.plan.events
        if count is None or count == len(words):
            return words
        if count < len(words):
            return [*words[: count - 1], "".join(words[count - 1 :])] if count > 0 else []
        return [words[index % len(words)] for index in range(count)]

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """The usage, counted or as planned."""
        return tokens.usage(self.request, self.deltas) if self.plan.counts else self.plan.usage

    @property
    def items(self) -> list[dict[str, Any]]:
        """The finished output items."""
        if self.plan.output is not None:
            return [dict(item) for item in self.plan.output]
        given = self.request.get("input")
        last = given[-1] if isinstance(given, list) and given else None
        if isinstance(last, dict) and last.get("type") == "compaction_trigger":
            return [{"type": "compaction", "encrypted_content": "c2ltdWxhdGVkIGNvbXBhY3Rpb24="}]
        return [self._message("".join(self.deltas))]

    def _message(self, text: str, *, status: str = "completed") -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        return {
            "id": self.message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content if status == "completed" else [],
        }

    @property
    def message_id(self) -> str:
        return self.response_id.replace("resp_", "msg_")

    def response(self, status: str) -> dict[str, Any]:
        """Return the response object with this status, which is one of OpenAI's."""
        code, message = self.plan.error or DEFAULT_ERROR
        ended = status not in ("queued", "in_progress")
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": bool(self.request.get("background")),
            "error": {"code": code, "message": message} if status == "failed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": self.request.get("instructions"),
            "max_output_tokens": None,
            "model": self.model,
            "output": self.items if status in ("completed", "incomplete") else [],
            "parallel_tool_calls": True,
            "previous_response_id": self.request.get("previous_response_id"),
            "prompt_cache_key": self.request.get("prompt_cache_key"),
            "reasoning": {"effort": "medium", "summary": None},
            "service_tier": self.service_tier if ended else "auto",
            "store": bool(self.request.get("store", True)),
            "temperature": 1.0,
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": usage_object(self.usage) if ended else None,
            "user": None,
            "metadata": {},
        }

    def events(self) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield the stream's events, each with the turn's status if it ends the turn."""
        sequence = -1

        def emit(kind: str, members: dict[str, Any]) -> dict[str, Any]:
            nonlocal sequence
            sequence += 1
            return {"type": kind, "sequence_number": sequence, **members}

        yield emit("response.created", {"response": self.response("in_progress")}), None
        yield emit("response.in_progress", {"response": self.response("in_progress")}), None
        for index, item in enumerate(self.items):
            for event in self._item_events(emit, index, item):
                yield event, None
        terminal = self.plan.terminal
        if terminal == "error":
            code, message = self.plan.error or DEFAULT_ERROR
            yield emit("error", {"code": code, "message": message, "param": None}), "failed"
        elif terminal is not None:
            yield emit(f"response.{terminal}", {"response": self.response(terminal)}), terminal

    def _item_events(self, emit: Emit, index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if item.get("id") != self.message_id:
            yield emit("response.output_item.added", {"output_index": index, "item": item})
            yield emit("response.output_item.done", {"output_index": index, "item": item})
            return
        where = {"item_id": self.message_id, "output_index": index, "content_index": 0}
        started = self._message("", status="in_progress")
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        yield emit("response.output_item.added", {"output_index": index, "item": started})
        yield emit("response.content_part.added", {**where, "part": part})
        # The real API pads its deltas with this member, so that text cannot be guessed from lengths.
        padding = {"obfuscation": "x" * self.plan.event_bytes} if self.plan.event_bytes else {}
        for delta in self.deltas:
            yield emit("response.output_text.delta", {**where, "delta": delta, "logprobs": [], **padding})
        text = item["content"][0]["text"]
        yield emit("response.output_text.done", {**where, "text": text, "logprobs": []})
        yield emit("response.content_part.done", {**where, "part": {**part, "text": text}})
        yield emit("response.output_item.done", {"output_index": index, "item": item})

    def turn(self, status: str, transport: str, *, reports_usage: bool = True) -> Turn:
        """Return the record of this turn.

        :param reports_usage: whether the client receives the usage. It never does if the turn was cut off or ended
            with an error.
        """
        reports_usage = reports_usage and status != "cut" and self.plan.terminal != "error"
        usage = flat_usage(self.usage) if reports_usage else {}
        return Turn(
            number=self.number,
            response_id=self.response_id,
            model=self.model,
            service_tier=self.service_tier,
            transport=transport,
            input_tokens=usage.get("input_tokens", 0),
            cached_tokens=usage.get("cached_tokens", 0),
            output_tokens=usage.get("output_tokens", 0),
            reasoning_tokens=usage.get("reasoning_tokens", 0),
            account=self.account,
            status=status,
        )


def new_id(prefix: str) -> str:
    """Return a new random identifier, such as ``resp_...`` for the prefix ``resp``."""
    return f"{prefix}_{secrets.token_hex(24)}"


def as_sse(event: Mapping[str, Any]) -> bytes:
    """Render an event for an event stream."""
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


def sse_events(output: Output) -> Iterator[Event]:
    """Yield a turn's rendered events."""
    for event, ends in output.events():
        yield Event(as_sse(event), ends)


def flat_usage(usage: Mapping[str, Any] | None) -> dict[str, int]:
    """Return token counts with a plan's keys, from either format of ``usage``; empty without usage."""
    if usage is None:
        return {}
    flat = {name: int(value) for name, value in usage.items() if isinstance(value, int)}
    for details, name in (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens")):
        if isinstance(usage.get(details), Mapping):
            flat[name] = int(usage[details].get(name, 0))
    return flat


def usage_object(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return ``usage`` in the Responses API's format. Usage in that format already is returned unchanged."""
    if usage is None or "input_tokens_details" in usage:
        return None if usage is None else dict(usage)
    flat = flat_usage(usage)
    input_tokens, output_tokens = flat.get("input_tokens", 0), flat.get("output_tokens", 0)
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": flat.get("cached_tokens", 0)},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": flat.get("reasoning_tokens", 0)},
        "total_tokens": input_tokens + output_tokens,
    }


def chat_usage_object(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return ``usage`` in the format of chat completions."""
    if usage is None:
        return None
    flat = flat_usage(usage)
    prompt, completion = flat.get("input_tokens", 0), flat.get("output_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": flat.get("cached_tokens", 0), "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": flat.get("reasoning_tokens", 0), "audio_tokens": 0},
    }

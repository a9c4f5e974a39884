"""Decides which turns without usage are charged an estimate, and for what. Pure; no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from ocm_wsgi.protocol.endpoints.endpoint import Family
from ocm_wsgi.protocol.responses import estimate
from ocm_wsgi.protocol.responses.turn import Outcome, Usage

#: The kinds of turns that are billed by the tokens of text that pass.
_TEXT_FAMILIES: frozenset[Family] = frozenset({"responses", "chat", "completions", "embeddings", "search", "memories"})

# Of these, the ones whose model writes nothing.
_SILENT_FAMILIES: frozenset[Family] = frozenset({"embeddings"})


@dataclass(frozen=True)
class Observed:
    """What is known of a turn without usage.

    :ivar http_status: of the response.
    :ivar input_tokens: estimate of the input, with what the request continues.
    :ivar output_tokens: estimate of the output that passed.
    :ivar has_begun: whether upstream has begun to respond.
    :ivar was_left: whether the client left before the end, so that the model was still at work.
    :ivar seconds: how long the model has been at work.
    """

    http_status: int
    family: Family
    input_tokens: int
    output_tokens: int
    has_begun: bool
    was_left: bool
    seconds: float


def estimated_usage(outcome: Outcome, observed: Observed) -> Usage | None:
    """Return the usage that a turn without usage is charged, or ``None`` if it is charged nothing.

    A turn that upstream refused, or that failed before anything was generated, is charged nothing. One that upstream
    cut is charged for what passed, and one that the client left also for the time that the model had.
    """
    if observed.http_status >= 400 or observed.family not in _TEXT_FAMILIES:
        return None
    if outcome.status in ("failed", "error") and not observed.output_tokens:
        return None
    if not observed.has_begun and not observed.was_left:
        return None
    is_silent = observed.family in _SILENT_FAMILIES
    had_time = observed.was_left or outcome.status in ("completed", "incomplete")
    return estimate.usage(
        observed.input_tokens,
        0 if is_silent else observed.output_tokens,
        observed.seconds if had_time and not is_silent else 0.0,
    )

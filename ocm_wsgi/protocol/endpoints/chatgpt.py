"""The endpoints for a ChatGPT sign-in: what the Codex client and its features use, and no more.

Below the same base path are the owner's remote-control hosts, goals and analytics.

Source: openai/codex, ``codex-rs/codex-api/src/endpoint/``.
"""

from __future__ import annotations

from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET, Endpoint

CHATGPT_ENDPOINTS = (
    Endpoint("GET", "models"),
    Endpoint("HEAD", "models"),
    Endpoint(WEBSOCKET, "responses", "responses"),
    Endpoint("POST", "responses", "responses"),
    Endpoint("POST", "responses/compact", "responses"),
    Endpoint("POST", "alpha/search", "search"),
    Endpoint("POST", "images/generations", "images"),
    Endpoint("POST", "images/edits", "images"),
    Endpoint("POST", "memories/trace_summarize", "memories"),
    Endpoint("POST", "realtime/calls", "realtime", is_metered=False),
)

"""Counts tokens as the simulated model does, roughly like OpenAI's ``o200k_base`` but without its table. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

#: Tokens of an image in the input: one of 1,024 by 1,024 at high detail.
IMAGE_TOKENS = 765

_PIECE = re.compile(r" ?[^\W\d_]+|\d{1,3}|\s+| ?(?:[^\w\s]|_)+")
_LONGEST_WORD = 9
_IMAGES = frozenset({"input_image", "image_url"})


def count(text: str) -> int:
    """Return the number of tokens in a text. Prose and source code have one for about four characters."""
    return sum(map(_tokens_of, _PIECE.findall(text)))


def usage(request: Any, deltas: Sequence[str]) -> dict[str, int]:
    """Return the exact usage of a turn, with the keys of ``plans.DEFAULT_USAGE``.

    :param request: the body of the request.
    :param deltas: the text, in pieces; the model writes a token for each at least.
    """
    output = max(count("".join(deltas)), len(deltas))
    return {"input_tokens": request_tokens(request), "cached_tokens": 0, "output_tokens": output, "reasoning_tokens": 0}


def request_tokens(request: Any) -> int:
    """Return the number of tokens in the text and the images of a request."""
    tools = request.get("tools")
    texts = [request.get(name) for name in ("instructions", "input", "messages", "prompt")]
    return sum(map(_tokens_in, texts)) + (count(json.dumps(tools, ensure_ascii=False)) if tools else 0)


def _tokens_in(value: Any) -> int:
    if isinstance(value, str):
        return count(value)
    if isinstance(value, list):
        return sum(map(_tokens_in, value))
    if not isinstance(value, dict):
        return 0
    if value.get("type") in _IMAGES:
        return IMAGE_TOKENS
    return sum(_tokens_in(member) for name, member in value.items() if name not in ("type", "role", "id"))


def _tokens_of(piece: str) -> int:
    if not piece.isascii():
        return -(-len(piece.encode()) * 2 // 7)
    if piece[-1].isalpha():
        return 1 if len(piece) <= _LONGEST_WORD else -(-len(piece) // 6)
    return 1 if piece.isspace() or piece[-1].isdigit() else -(-len(piece) // 3)

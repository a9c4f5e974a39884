"""What turns used apart from tokens of text, for columns and for people."""

from __future__ import annotations

from dataclasses import fields

from ocm_wsgi.accounting.queries import Counts
from ocm_wsgi.protocol.responses.turn import Usage

#: The columns of these units, after those of tokens.
UNIT_COLUMNS = tuple(
    field.name
    for field in fields(Usage)
    if field.name not in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cache_write_tokens")
)


def units_text(used: Usage | Counts) -> str:
    """Return what was used apart from tokens of text, in a line; empty if nothing was.

    Tokens of images and audio are parts of the input and of the output.
    """
    amounts = (
        (used.image_input_tokens, "image tokens in"),
        (used.image_output_tokens, "image tokens out"),
        (used.audio_input_tokens, "audio tokens in"),
        (used.audio_output_tokens, "audio tokens out"),
        (used.characters, "characters" if used.characters != 1 else "character"),
        (used.items, "items" if used.items != 1 else "item"),
    )
    texts = [f"{amount:,} {name}" for amount, name in amounts if amount]
    if used.media_ms:
        texts.append(f"{used.media_ms / 1000:,.1f} s of media")
    return ", ".join(texts)

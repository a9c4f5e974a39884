"""Estimates the tokens of a turn whose usage upstream does not report, from what passed. Pure; no I/O.

While a turn is in progress, octets are only counted, and a few samples are kept; the work is done if the usage is
missing in the end. The rule is described, and its error stated, in ``docs/accounting.md``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ocm_wsgi.protocol.responses.turn import Usage

#: Octets of text that count as a token. English prose and source code have about four.
OCTETS_PER_TOKEN = 3

#: Tokens of an image in the input: 2,500 patches, the most at high detail.
IMAGE_TOKENS = 2_500

#: Tokens that a model is taken to write in a second, if what passed shows fewer: reasoning is not sent to clients.
TOKENS_PER_SECOND = 50

#: The longest output and the longest input of any model, in tokens.
MAX_OUTPUT_TOKENS = 128_000
MAX_INPUT_TOKENS = 1_050_000

# Reads that are kept as samples. When there are more, every other one is dropped, and from there half as many are kept.
_MAX_SAMPLES = 128
# A longer read is measured immediately, and not kept.
_SAMPLE_OCTETS = 1024
# How a read ends that ends with an event, and one that ends with a WebSocket message.
_ENDS = (b"\n\n", b"}")

_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)'
_DELTA = re.compile(rb'"delta"\s*:\s*' + _STRING, re.DOTALL)
_CHAT_DELTA = re.compile(rb'"(?:content|refusal|arguments|text)"\s*:\s*' + _STRING, re.DOTALL)
_ITEM_DONE = b'output_item.done"'
# What an item has besides its text, in octets.
_ITEM_OVERHEAD = 300
_ENCRYPTED = b'"encrypted_content"'
_ESCAPE = b"\\u"
# Escapes are searched for in the beginning of each block, as a client escapes all characters or none.
_ESCAPE_SEARCH_OCTETS = 4096
# An escape has six octets, and the character that it represents three at most.
_ESCAPE_EXCESS = 3

# What a JSON body contains besides the model's output: mostly a copy of the request.
_OUTPUT_MEMBERS = ("output", "choices", "data")
_BASE64 = re.compile(rb"[A-Za-z0-9+/=]{4096,}")

_IMAGE_KEY = b'"image_url"'
_IMAGE = re.compile(rb'"image_url"\s*:\s*(?:\{[^{}]{0,64}?"url"\s*:\s*)?"(data:image/)?')
# An image's member is recognised if this much of it is in one block, or in the block and the end of the one before.
_CARRIED_OCTETS = 128


def usage(input_tokens: int, output_tokens: int, seconds: float) -> Usage:
    """Return the estimated usage of a turn.

    :param input_tokens: of the request, from :class:`InputMeter`, and of what it continues.
    :param output_tokens: in what passed, from :class:`OutputMeter`.
    :param seconds: how long the model has been writing.
    """
    written = max(output_tokens, int(seconds * TOKENS_PER_SECOND))
    return Usage(min(input_tokens, MAX_INPUT_TOKENS), 0, min(written, MAX_OUTPUT_TOKENS))


class InputMeter:
    """Measures the text and the images of a request whose body is fed in blocks.

    Images are recognised as the Responses API and chat completions spell them. Anything else counts as text.
    """

    def __init__(self) -> None:
        self._octets = 0
        self._images = 0
        self._carried = b""
        self._is_in_image = False

    def measured(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the blocks, and measure them."""
        for block in blocks:
            self.feed(block)
            yield block

    def finish(self) -> int:
        """Return the estimated tokens of what has been fed."""
        self._search(self._carried, len(self._carried))
        return -(-self._octets // OCTETS_PER_TOKEN) + self._images * IMAGE_TOKENS

    def feed(self, block: bytes) -> None:
        self._octets += len(block)
        if block.find(_ESCAPE, 0, _ESCAPE_SEARCH_OCTETS) >= 0:
            self._octets -= _ESCAPE_EXCESS * block.count(_ESCAPE)
        if self._carried:
            block = self._carried + block
        start = self._after_image(block) if self._is_in_image else 0
        start = self._search(block, max(len(block) - _CARRIED_OCTETS, 0), start)
        self._carried = b"" if self._is_in_image else block[max(start, len(block) - _CARRIED_OCTETS) :]

    def _search(self, block: bytes, stop: int, start: int = 0) -> int:
        """Count the images that begin before ``stop``, and return where the last one ends."""
        while 0 <= (at := block.find(_IMAGE_KEY, start)) < stop:
            found = _IMAGE.match(block, at)
            start = at + len(_IMAGE_KEY) if found is None else found.end()
            if found is not None:
                self._images += 1
                if found[1] is not None:
                    self._is_in_image = True
                    start = self._after_image(block, start)
        return start

    def _after_image(self, block: bytes, start: int = 0) -> int:
        """Take the octets of an image's data back, and return where it ends."""
        end = block.find(b'"', start)
        self._is_in_image = end < 0
        end = len(block) if end < 0 else end
        self._octets -= end - start
        return end


class OutputMeter:
    """Measures a model's output in the events that are fed in reads of any size.

    Deltas are sampled. Finished items are found in all long reads: they are few, and samples could miss them.

    :param is_chat: whether these are chunks of chat completions, and not events of the Responses API.
    """

    def __init__(self, *, is_chat: bool = False) -> None:
        self._delta = _CHAT_DELTA if is_chat else _DELTA
        self._reads = 0
        self._stride = 1
        self._until_next = 1
        self._samples: list[bytes | _Sample] = []  # as octets if it is one short read
        self._open_sample: _Sample | None = None
        self._items = _Items()
        self._unreadable = 0

    def feed_unreadable(self, data: bytes) -> None:
        """Count a read whose coding is unknown. Compressed text has an octet for each token at least."""
        self._unreadable += len(data)

    def feed(self, data: bytes) -> None:
        """Count a read. This is on the path of every event."""
        self._reads += 1
        self._until_next -= 1
        is_long = len(data) > _SAMPLE_OCTETS
        if self._until_next <= 0:
            if is_long or self._open_sample is not None or not data.endswith(_ENDS):
                self._extend(data)
            else:  # The usual case: an event arrives alone.
                self._samples.append(data)
                self._until_next = self._stride
                if len(self._samples) >= _MAX_SAMPLES:
                    self._thin()
        if is_long or self._items.is_open:
            self._items.feed(data)

    def tokens(self) -> int:
        """Return the estimated tokens of the output, without those that :data:`TOKENS_PER_SECOND` accounts for."""
        samples = [_Sample(sample) if isinstance(sample, bytes) else sample for sample in self._samples]
        if self._open_sample is not None:
            samples.append(self._open_sample)
        scale = self._reads / max(sum(sample.reads for sample in samples), 1)
        texts = octets = items = encrypted = 0.0
        for sample in samples:
            in_sample, short = sample.measured or _texts_in(self._delta, sample.octets), _Items()
            short.feed(sample.octets)
            texts += scale * in_sample[0]
            octets += scale * in_sample[1]
            items += scale * short.octets
            encrypted += scale * short.encrypted
        # Most deltas are one token. An item repeats the text of its deltas, if it has any.
        tokens = max(
            texts,
            octets / OCTETS_PER_TOKEN,
            (items + self._items.octets) / OCTETS_PER_TOKEN,
        )
        return math.ceil(tokens + (encrypted + self._items.encrypted) / OCTETS_PER_TOKEN) + self._unreadable

    def _extend(self, data: bytes) -> None:
        """Begin a sample with a read, or continue the one that is open, as its last read ended within an event."""
        sample = self._open_sample
        if sample is None:
            sample = self._open_sample = _Sample(data)
        else:
            sample.octets += data
            sample.reads += 1
        if len(sample.octets) > _SAMPLE_OCTETS:
            sample.measured, sample.octets = _texts_in(self._delta, sample.octets), b""
        elif not data.endswith(_ENDS):
            return
        self._open_sample = None
        self._samples.append(sample)
        self._until_next = self._stride
        if len(self._samples) >= _MAX_SAMPLES:
            self._thin()

    def _thin(self) -> None:
        """Drop every other sample, and keep half as many from here."""
        self._samples = self._samples[::2]
        self._until_next = self._stride = 2 * self._stride


@dataclass
class _Sample:
    """A read, or several that continue each other.

    :ivar measured: what ``_texts_in`` returns; set for a long one, in place of its octets.
    """

    octets: bytes
    reads: int = 1
    measured: tuple[int, int] | None = None


class _Items:
    """Measures the finished items in some reads.

    :ivar octets: of items, except those of encrypted reasoning, which ``encrypted`` has.
    :ivar is_open: whether an item continues in the next read.
    """

    def __init__(self) -> None:
        self.octets = 0
        self.encrypted = 0
        self.is_open = False
        self._is_encrypted = False

    def feed(self, data: bytes) -> None:
        at = 0 if self.is_open else data.find(_ITEM_DONE)
        while at >= 0:
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end
            size = _text_octets(data[at:stop])
            if not self.is_open:
                size = max(size - _ITEM_OVERHEAD, 0)
                self._is_encrypted = data.find(_ENCRYPTED, at, stop) >= 0
            if self._is_encrypted:
                self.encrypted += size
            else:
                self.octets += size
            self.is_open = end < 0 and not data.endswith(_ENDS)
            at = data.find(_ITEM_DONE, stop)


def _texts_in(delta: re.Pattern[bytes], data: bytes) -> tuple[int, int]:
    """Return the number of deltas with text, and the octets of these texts."""
    texts = delta.findall(data)
    return len(texts) - texts.count(b""), _text_octets(b"".join(texts))


def tokens_in_body(body: Any, size: int) -> int:
    """Return the estimated output tokens in a JSON body without usage.

    :param body: the parsed body, or ``None`` if it is incomplete, too large or invalid; then its size counts.
    :param size: in octets.
    """
    if not isinstance(body, dict):
        return -(-size // OCTETS_PER_TOKEN)
    output = json.dumps([body.get(name) for name in _OUTPUT_MEMBERS], ensure_ascii=False).encode("utf-8", "replace")
    media = _BASE64.findall(output)
    return -(-(len(output) - sum(map(len, media))) // OCTETS_PER_TOKEN) + len(media) * IMAGE_TOKENS


def _text_octets(text: bytes) -> int:
    return len(text) - _ESCAPE_EXCESS * text.count(_ESCAPE)

"""What a server needs to know of a request's head to wait for a form without a thread. Pure; no I/O.

Forms are what strangers can make this service read: every other body belongs to a user who is known before it is read.
"""

from __future__ import annotations

import re

from ocm_wsgi.protocol.http.targets import API_PREFIX

#: The largest form has a dozen fields, one of which lists models.
MAX_FORM_BYTES = 64 * 1024
MAX_FORM_FIELDS = 50
#: For the whole of a form, from the end of the request's head.
FORM_SECONDS = 5.0

_API_TARGET = b" " + API_PREFIX.encode()
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*\r", re.IGNORECASE)
_NOT_A_FORM = re.compile(rb"\n(?:transfer-encoding|expect)[ \t]*:", re.IGNORECASE)


def form_length(head: bytes) -> int:
    """Return how many octets follow that a form's reader will read; 0 if it reads none.

    :param head: a request's head, with the empty line at its end. Need not be valid.
    """
    if head.startswith(_API_TARGET, head.find(b" ")):
        return 0
    lengths = _LENGTH.findall(head)
    if len(lengths) != 1 or _NOT_A_FORM.search(head):
        return 0
    length = int(lengths[0])
    return length if length <= MAX_FORM_BYTES else 0

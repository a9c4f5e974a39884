"""Request fields that WSGI servers provide beyond PEP 3333."""

from __future__ import annotations

from threading import Thread

from ocm_wsgi.gateway.environ import remember_fields, request_fields


def test_fields_are_remembered_by_thread() -> None:
    """A thread sees the fields of the request that it is serving, and none if no server has remembered any."""
    seen: list[object] = [request_fields()]

    def serve() -> None:
        for name in ("SESSION_ID", "SESSION-ID"):
            remember_fields([(name, "x"), (name, "y")])
            seen.append(request_fields())

    thread = Thread(target=serve)
    thread.start()
    thread.join()
    seen.append(request_fields())
    assert seen == [None, [("SESSION_ID", "x"), ("SESSION_ID", "y")], [("SESSION-ID", "x"), ("SESSION-ID", "y")], None]

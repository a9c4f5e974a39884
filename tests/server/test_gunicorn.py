"""The real gunicorn with the repository's gunicorn.conf.py."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

Start = Callable[..., Any]


def get(address: tuple[str, int], *fields: tuple[str, str], context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Send one request with exactly these fields and return what the application saw."""
    connection = (
        http.client.HTTPSConnection("localhost", address[1], context=context, timeout=10)
        if context
        else http.client.HTTPConnection(*address, timeout=10)
    )
    try:
        return get_on(connection, *fields)
    finally:
        connection.close()


def get_on(connection: http.client.HTTPConnection, *fields: tuple[str, str]) -> dict[str, Any]:
    connection.putrequest("GET", "/p", skip_accept_encoding=True)
    for name, value in fields:
        connection.putheader(name, value)
    connection.endheaders()
    seen: dict[str, Any] = json.loads(connection.getresponse().read())
    return seen


def configure(folder: Path, **members: Any) -> None:
    (folder / "ocm.json").write_text(json.dumps(members))


def test_fields_arrive_as_sent(gunicorn: Start) -> None:
    """Of names with underscores only Codex's three pass; repeated fields are kept; none sets the path or scheme."""
    address = gunicorn().address()
    seen = get(
        address,
        ("session_id", "a"),
        ("Session-Id", "b"),
        ("conversation_id", "c"),
        ("thread_id", "t"),
        ("x_other", "d"),
        ("SCRIPT_NAME", "/p"),
        ("PATH_INFO", "/elsewhere"),
        ("X-Forwarded-Proto", "https"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    )
    assert seen["fields"][1:] == [
        ["SESSION_ID", "a"],
        ["SESSION-ID", "b"],
        ["CONVERSATION_ID", "c"],
        ["THREAD_ID", "t"],
        ["X-FORWARDED-PROTO", "https"],
        ["X-TWICE", "1"],
        ["X-TWICE", "2"],
    ]
    assert (seen["path"], seen["scheme"]) == ("/p", "http")


def test_fields_are_replaced_at_each_request(gunicorn: Start) -> None:
    """A second request on the same connection has its own fields and none of the first one's."""
    host, port = gunicorn("--threads", "1").address()
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        assert get_on(connection, ("X-One", "1"))["fields"][1:] == [["X-ONE", "1"]]
        assert get_on(connection, ("X-Two", "2"))["fields"][1:] == [["X-TWO", "2"]]
    finally:
        connection.close()


def test_long_fields_pass(gunicorn: Start) -> None:
    """A field of tens of kilobytes passes, as Codex's metadata can be that long."""
    assert len(get(gunicorn().address(), ("x-codex-turn-metadata", "x" * 60000))["fields"][1][1]) == 60000


def test_listen_fields_are_on_the_connection(gunicorn: Start, tmp_path: Path) -> None:
    """The configuration's listen fields apply to the connections that gunicorn accepts."""
    configure(tmp_path, routing_mark=77, tcp_keep_alive="2m")
    seen = get(gunicorn().address())
    assert (seen["mark"], seen["keep_alive"]) == (77, 120)


def test_listens_on_ipv6(gunicorn: Start) -> None:
    """The service listens on the IPv6 address of the configuration."""
    address = gunicorn(OCM_LISTEN="::1").address()
    assert address[0] == "::1"
    assert get(address)["path"] == "/p"


def test_bind_flag_takes_precedence(gunicorn: Start) -> None:
    """--bind takes precedence over the configuration, on the command line and in GUNICORN_CMD_ARGS."""
    first = gunicorn("--bind", "127.0.0.2:0")
    assert first.address()[0] == "127.0.0.2"
    first.stop()
    assert gunicorn(GUNICORN_CMD_ARGS="--bind 127.0.0.3:0").address()[0] == "127.0.0.3"


def test_systemd_socket_takes_precedence(gunicorn: Start, held_port: tuple[socket.socket, int]) -> None:
    """The service listens on a socket passed by systemd."""
    holder, port = held_port
    address = gunicorn(listening_fd=holder.fileno()).address()
    assert address[1] == port
    assert get(address)["path"] == "/p"


def test_invalid_configuration_prevents_the_start(gunicorn: Start, tmp_path: Path) -> None:
    """Every problem is printed, with exit code 1 and no traceback."""
    configure(tmp_path, listen_prot=1, users=[{"name": "a", "token": ""}])
    server = gunicorn(OCM_RESERVE_5H="many")
    assert server.process.wait(20) == 1
    assert "3 problems in the configuration" in server.log
    assert all(place in server.log for place in ("$.listen_prot", "$.users[0].token", "OCM_RESERVE_5H"))
    assert "Traceback" not in server.log


def test_no_workers_prevent_the_start(gunicorn: Start) -> None:
    """gunicorn itself would accept connections and serve none."""
    server = gunicorn(WEB_CONCURRENCY="0")
    assert server.process.wait(20) == 1
    assert server.log == "Error: WEB_CONCURRENCY is '0': it must be a number of workers, at least 1.\n"


def test_address_that_is_not_local_prevents_the_start(gunicorn: Start) -> None:
    """An address that cannot be bound is reported in one line, with exit code 1 and no traceback."""
    server = gunicorn(OCM_LISTEN="192.0.2.1")
    assert server.process.wait(20) == 1
    assert "Cannot listen at 192.0.2.1:0: [Errno 99]" in server.log
    assert "Traceback" not in server.log


def test_waits_for_an_address_in_use(gunicorn: Start, held_port: tuple[socket.socket, int]) -> None:
    """While its predecessor still holds the address, the service retries for a while."""
    holder, port = held_port
    server = gunicorn(OCM_LISTEN_PORT=str(port))
    server.wait_for_log("Address already in use")
    holder.close()
    assert get(server.address())["path"] == "/p"


def test_reload_applies_the_new_configuration(gunicorn: Start, tmp_path: Path) -> None:
    """After HUP new workers have the new configuration and the same socket."""
    configure(tmp_path, reserve_5h=1)
    server = gunicorn()
    address = server.address()
    before = get(address)
    configure(tmp_path, reserve_5h=2)
    server.reload()
    after = get(address)
    assert (before["reserve"], after["reserve"]) == (1, 2)
    assert before["worker"] != after["worker"]


def test_reload_keeps_the_last_valid_configuration(gunicorn: Start, tmp_path: Path) -> None:
    """At HUP with an invalid file, its problems are logged and new workers keep the last valid configuration."""
    configure(tmp_path, reserve_5h=1)
    server = gunicorn()
    address = server.address()
    before = get(address)
    configure(tmp_path, reserve_5h=2, listen_prot=1)
    server.reload()
    after = get(address)
    assert (before["reserve"], after["reserve"]) == (1, 1)
    assert before["worker"] != after["worker"]
    assert "did you mean listen_port?" in server.log
    assert "Keeping the last valid configuration" in server.log
    os.kill(after["worker"], signal.SIGKILL)
    server.wait_for_log("Booting worker", count=3)
    assert get(address)["reserve"] == 1


def test_reload_keeps_the_address(gunicorn: Start, tmp_path: Path) -> None:
    """A changed listen field is reported, and takes effect at the next start."""
    server = gunicorn()
    address = server.address()
    configure(tmp_path, listen="192.0.2.1")
    server.reload()
    assert get(address)["path"] == "/p"
    assert "listen fields have changed" in server.log


def test_warnings_are_logged(gunicorn: Start) -> None:
    """The configuration's warnings are logged at the start."""
    server = gunicorn("--bind", "127.0.0.1:0", OCM_LISTEN="0.0.0.0", OCM_SERVICE_HOST="10.0.0.1")
    server.address()
    assert "[WARNING] listening on 0.0.0.0:0 with no users" in server.log
    assert "OCM_SERVICE_HOST in the environment" in server.log


def test_warning_about_an_inherited_open_socket(gunicorn: Start) -> None:
    """The warning also covers an inherited socket that is not on the loopback."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        opened.bind(("0.0.0.0", 0))
        opened.listen()
        server = gunicorn(listening_fd=opened.fileno())
        server.wait_for_log(rf"\[WARNING\] Listening on 0.0.0.0:{opened.getsockname()[1]} with no users")


def test_upgrade_hands_the_socket_over(gunicorn: Start) -> None:
    """After USR2 the new master serves on the old one's socket."""
    server = gunicorn("--pid", "pid")
    address = server.address()
    before = get(address)
    server.process.send_signal(signal.SIGUSR2)
    server.wait_for_log("Booting worker", count=2)
    (old, new) = server.wait_for_log(r"Listening at: http://127.0.0.1:\d+ \((\d+)\)", count=2)
    try:
        server.stop()
        after = get(address)
        # It also holds the state, which another instance may not use.
        assert gunicorn().process.wait(20) == 1
        assert int(old) == server.process.pid
        assert before["worker"] != after["worker"]
        assert after["keep_alive"] == 300
    finally:
        os.kill(int(new), signal.SIGTERM)
        server.wait_for(lambda: not Path(f"/proc/{new}").exists() or " Z " in Path(f"/proc/{new}/stat").read_text())


def test_terminates_tls_without_a_key_on_disk(gunicorn: Start, tmp_path: Path) -> None:
    """TLS works with an inline key, which is written to no file but the configuration."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key = certificate.private_key_pem.bytes().decode()
    chain = "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems)
    configure(tmp_path, tls={"enabled": True, "certificate": chain, "key": key})
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = gunicorn()
    seen = get(server.address(), context=context)
    assert seen["scheme"] == "https"
    with_key = [path.name for path in tmp_path.rglob("*") if path.is_file() and key[40:80] in path.read_text("latin-1")]
    assert with_key == ["ocm.json"]


def test_tls_follows_a_replaced_certificate(gunicorn: Start, tmp_path: Path) -> None:
    """After HUP new connections get the certificate that is in the file now."""
    first, second = trustme.CA(), trustme.CA()
    paths = {"certificate_path": "chain.pem", "key_path": "key.pem"}

    def install(authority: trustme.CA) -> ssl.SSLContext:
        certificate = authority.issue_cert("localhost")
        (tmp_path / "chain.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    old = install(first)
    configure(tmp_path, tls={"enabled": True, **paths})
    server = gunicorn()
    address = server.address()
    assert get(address, context=old)["scheme"] == "https"
    new = install(second)
    server.reload()
    assert get(address, context=new)["scheme"] == "https"

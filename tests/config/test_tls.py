"""Certificates in the configuration, tested with real handshakes."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from ocm_wsgi.config import TLS, Certificate, Config, load
from ocm_wsgi.errors import ConfigurationError
from ocm_wsgi.tls.contexts import server_context, upstream_context

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
SERVER = AUTHORITY.issue_cert("localhost")
CLIENT = AUTHORITY.issue_cert("client@example.org")
AUTHORITY_PEM = AUTHORITY.cert_pem.bytes().decode()
CHAIN_PEM = "".join(blob.bytes().decode() for blob in SERVER.cert_chain_pems)
KEY_PEM = SERVER.private_key_pem.bytes().decode()
ENCRYPTED_KEY_PEM = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with a chain, a key, authorities, and files that are none of these."""
    (tmp_path / "chain.pem").write_text(CHAIN_PEM)
    (tmp_path / "key.pem").write_text(KEY_PEM)
    (tmp_path / "other.pem").write_text(CLIENT.private_key_pem.bytes().decode())
    (tmp_path / "encrypted.pem").write_text(ENCRYPTED_KEY_PEM)
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / "ca.pem").write_text("# Türktrust\n" + AUTHORITY_PEM)
    (tmp_path / "authorities" / "README").write_bytes(b"\xff")
    (tmp_path / "empty").mkdir()
    return tmp_path


def loaded(folder: Path, document: Any, **environ: str) -> Config:
    (folder / "ocm.json").write_text(json.dumps(document))
    return load(environ={"HOME": str(folder), **environ}, cwd=folder)


def problems(folder: Path, document: Any, **environ: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(folder, document, **environ)
    return [(problem.where, f"{problem.found}; {problem.expected}") for problem in caught.value.problems]


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, *, server_name: str = "localhost"
) -> tuple[str | None, str | None]:
    """Return the version and cipher of a handshake over real sockets; raise the client's error."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.sendall(b"x")
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=server_name) as connection:
            connection.recv(1)  # with TLS 1.3 a client learns only now that its certificate was rejected
            cipher = connection.cipher()
            return connection.version(), cipher[0] if cipher else None
    finally:
        ours.close()
        thread.join()


def trusting_client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context


def test_server_context_from_paths(files: Path) -> None:
    """Certificate and key are read from their files."""
    tls = loaded(files, {"tls": {"enabled": True, "certificate_path": "chain.pem", "key_path": "key.pem"}}).tls
    assert tls is not None
    assert shake_hands(server_context(tls), trusting_client())[0] == "TLSv1.3"


def test_server_context_from_inline_texts(files: Path) -> None:
    """Inline texts, as strings or lists of lines, take precedence over paths; the key is in no repr."""
    config = loaded(
        files,
        {"tls": {"enabled": True, "certificate": CHAIN_PEM.splitlines(), "key": KEY_PEM, "key_path": "nowhere.pem"}},
    )
    assert config.tls is not None
    assert KEY_PEM.splitlines()[1] not in repr(config)
    assert shake_hands(server_context(config.tls), trusting_client())[0] == "TLSv1.3"


@pytest.mark.parametrize(
    ("settings", "version", "cipher"),
    [
        pytest.param({"max_version": "1.2"}, "TLSv1.2", None, id="max"),
        pytest.param({"min_version": "1.3", "server_name": "x", "alpn": "http/1.1"}, "TLSv1.3", None, id="min"),
        pytest.param(
            {"max_version": "1.2", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]},
            "TLSv1.2",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            id="suite",
        ),
        pytest.param({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "TLSv1.3", None, id="only-1.3-suites"),
    ],
)
def test_server_context_honours_versions_and_suites(
    files: Path, settings: dict[str, Any], version: str, cipher: str | None
) -> None:
    """Handshakes use the configured versions and suites."""
    tls = loaded(files, {"tls": {"enabled": True, "certificate": CHAIN_PEM, "key": KEY_PEM, **settings}}).tls
    assert tls is not None
    shaken = shake_hands(server_context(tls), trusting_client())
    assert shaken[0] == version
    assert cipher in (None, shaken[1])


def test_server_context_verifies_clients(files: Path) -> None:
    """require-and-verify accepts only clients of the authority; verify-if-given also those without a certificate."""
    both = {"enabled": True, "certificate": CHAIN_PEM, "key": KEY_PEM, "client_certificate_path": "authorities/ca.pem"}
    required = loaded(files, {"tls": {**both, "client_authentication": "require-and-verify"}}).tls
    optional = loaded(files, {"tls": {**both, "client_authentication": "verify-if-given"}}).tls
    assert required is not None
    assert optional is not None
    known, unknown = trusting_client(), trusting_client()
    CLIENT.configure_cert(known)
    STRANGER.issue_cert("x@example.org").configure_cert(unknown)
    assert shake_hands(server_context(required), known)[0] == "TLSv1.3"
    assert shake_hands(server_context(optional), trusting_client())[0] == "TLSv1.3"
    for tls, client in ((required, trusting_client()), (required, unknown), (optional, unknown)):
        with pytest.raises(OSError, match="alert"):
            shake_hands(server_context(tls), client)


PATHS = {"certificate_path": "chain.pem", "key_path": "key.pem"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, [("$.tls", "without a certificate"), ("$.tls", "without a key")], id="nothing"),
        pytest.param({"certificate_path": "chain.pem"}, [("$.tls", "without a key; key or key_path")], id="no-key"),
        pytest.param(
            {"certificate_path": "no.pem", "key_path": "no.pem"},
            [("$.tls.certificate_path", "No such file"), ("$.tls.key_path", "No such file")],
            id="no-files",
        ),
        pytest.param(
            {**PATHS, "certificate_path": "text.pem"}, [("$.tls.certificate_path", "no certificate")], id="text"
        ),
        pytest.param({**PATHS, "certificate": "x"}, [("$.tls.certificate", "PEM format")], id="inline-text"),
        pytest.param({**PATHS, "key_path": "text.pem"}, [("$.tls.key_path", "no private key")], id="no-key-in-it"),
        pytest.param({**PATHS, "key_path": "other.pem"}, [("$.tls.key_path", "another certificate")], id="mismatch"),
        pytest.param({**PATHS, "key_path": "encrypted.pem"}, [("$.tls.key_path", "encrypted")], id="encrypted"),
        pytest.param(
            {**PATHS, "min_version": "1.3", "max_version": "1.2"},
            [("$.tls.min_version", "1.3, above max_version 1.2")],
            id="versions",
        ),
        pytest.param(
            {**PATHS, "client_authentication": "require-and-verify"},
            [("$.tls.client_authentication", "client_certificate")],
            id="no-authority",
        ),
        pytest.param({**PATHS, "client_certificate": "x"}, [("$.tls", "client_authentication")], id="no-verification"),
        pytest.param(
            {**PATHS, "client_certificate_path": "text.pem", "client_authentication": "verify-if-given"},
            [("$.tls.client_certificate_path", "no certificate")],
            id="authority",
        ),
        pytest.param({**PATHS, "acme": {"domain": "x"}}, [("$.tls.acme", "deploy/nginx.conf")], id="acme"),
        pytest.param({**PATHS, "ech": {"enabled": True}}, [("$.tls.ech", "deploy/nginx.conf")], id="ech"),
        pytest.param({**PATHS, "reality": {"enabled": True}}, [("$.tls.reality", "deploy/nginx.conf")], id="reality"),
        pytest.param({**PATHS, "kernel_tx": True}, [("$.tls.kernel_tx", "kernel TLS")], id="kernel"),
        pytest.param({**PATHS, "insecure": True}, [("$.tls.insecure", "certificate_path")], id="insecure"),
        pytest.param(
            {**PATHS, "curve_preferences": ["X25519"]}, [("$.tls.curve_preferences", "deploy/nginx.conf")], id="curves"
        ),
    ],
)
def test_load_tries_the_certificates(files: Path, settings: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """TLS settings that cannot work prevent startup; the error names the key at fault."""
    found = problems(files, {"tls": {"enabled": True, **settings}})
    assert [where for where, _ in found] == [where for where, _ in expected]
    assert [text for (_, text), (_, words) in zip(found, expected, strict=True) if words not in text] == []


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param({"certificate": ["# Türktrust", *AUTHORITY_PEM.splitlines()]}, id="inline"),
        pytest.param({"store": "none", "certificate_path": "authorities/ca.pem"}, id="path"),
        pytest.param({"store": "system", "certificate_path": ["authorities/ca.pem"]}, id="paths"),
        pytest.param({"store": "mozilla", "certificate_directory_path": "authorities"}, id="folder"),
        pytest.param({"store": "none", "certificate_path": "chain.pem"}, id="leaf-as-anchor"),
    ],
)
def test_upstream_context_trusts_what_is_given(files: Path, certificate: dict[str, Any]) -> None:
    """The configured certificates are trusted, for their own host names only."""
    context = upstream_context(loaded(files, {"certificate": certificate}).certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.configure_cert(server)
    assert shake_hands(server, context)[0] == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, context, server_name="elsewhere.example")


@pytest.mark.parametrize("store", [None, "system", "mozilla"])
def test_upstream_context_refuses_strangers(store: str | None) -> None:
    """A certificate of an unknown authority is rejected with every store."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.configure_cert(server)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, upstream_context(Certificate(store=store)))


@pytest.mark.parametrize("store", [None, "system"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_upstream_context_follows_openssl_variables(
    files: Path, monkeypatch: pytest.MonkeyPatch, store: str | None, variable: str
) -> None:
    """OpenSSL's variables replace certifi's roots; files in a folder are named by hash."""
    (files / "hashed").mkdir()
    (files / "hashed" / f"{subject_hash()}.0").write_text(AUTHORITY_PEM)
    path = files / ("hashed" if variable == "SSL_CERT_DIR" else "authorities/ca.pem")
    monkeypatch.setenv(variable, str(path))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.configure_cert(server)
    assert shake_hands(server, upstream_context(Certificate(store=store)))[0] == "TLSv1.3"


def subject_hash() -> str:
    """Return the file name that OpenSSL looks for in a folder of authorities (X509_NAME_hash).

    That is SHA-1 over the subject with its texts in lower case, without the outer SEQUENCE, first four bytes reversed.
    """
    subject = x509.load_pem_x509_certificate(AUTHORITY_PEM.encode()).subject
    encoded = b""
    for attribute in subject:
        name = bytes([2 * 40 + 5, 4, int(attribute.oid.dotted_string.rpartition(".")[2])])
        text = str(attribute.value).lower().encode()
        encoded += der(0x31, der(0x30, der(0x06, name) + der(0x0C, text)))
    return hashlib.sha1(encoded).digest()[3::-1].hex()


def der(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def test_upstream_context_is_built_once() -> None:
    """Equal settings share a context, as building one takes tens of milliseconds."""
    assert upstream_context(Certificate()) is upstream_context(Certificate())
    assert upstream_context(Certificate()) is not upstream_context(Certificate(store="system"))


def test_upstream_context_has_safe_settings() -> None:
    """Certificates and host names are verified, and TLS 1.2 is the minimum."""
    context = upstream_context(Certificate())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) > 50


def test_load_refuses_a_folder_without_certificates(files: Path) -> None:
    """A folder without certificates is reported as a problem."""
    (found,) = problems(files, {"certificate": {"certificate_directory_path": "empty"}})
    assert found[0] == "$.certificate.certificate_directory_path"
    assert "no certificate in it" in found[1]


def test_disabled_tls_needs_no_certificate(files: Path) -> None:
    """With TLS off its files are not read."""
    assert loaded(files, {"tls": {"enabled": False, "certificate_path": "no.pem"}}).tls is None
    assert TLS().enabled is False

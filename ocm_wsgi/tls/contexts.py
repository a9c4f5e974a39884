"""TLS contexts for gunicorn's connections from clients and for connections to upstream. Opens no connection itself.

Errors are raised as :class:`ConfigurationError` with problems that name the key in the settings, such as ``key_path``.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import certifi

from ocm_wsgi.errors import ConfigProblem, ConfigurationError
from ocm_wsgi.tls.cipher_suites import CIPHER_SUITES
from ocm_wsgi.tls.session_cache import ResumingContext

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_AUTHENTICATION = {
    "no": ssl.CERT_NONE,
    "verify-if-given": ssl.CERT_OPTIONAL,
    "require-and-verify": ssl.CERT_REQUIRED,
}
_PEM = "certificates in PEM format"


class SecretText(Protocol):
    """A text that ``repr`` and logs do not show."""

    def get_secret_value(self) -> str:
        """Return the text."""


class ServerSettings(Protocol):
    """The settings of a TLS server, as in the configuration's ``tls``. Inline texts take precedence over paths."""

    @property
    def certificate(self) -> str | None:
        """The certificate chain in PEM format."""

    @property
    def certificate_path(self) -> Path | None:
        """The file of the certificate chain."""

    @property
    def key(self) -> SecretText | None:
        """The private key in PEM format."""

    @property
    def key_path(self) -> Path | None:
        """The file of the private key."""

    @property
    def min_version(self) -> str:
        """``1.2`` or ``1.3``."""

    @property
    def max_version(self) -> str:
        """``1.2`` or ``1.3``."""

    @property
    def cipher_suites(self) -> tuple[str, ...]:
        """sing-box's names; empty for OpenSSL's defaults."""

    @property
    def client_authentication(self) -> str:
        """``no``, ``verify-if-given`` or ``require-and-verify``."""

    @property
    def client_certificate(self) -> str | None:
        """Certificates, in PEM format, that verify clients."""

    @property
    def client_certificate_path(self) -> tuple[Path, ...]:
        """Files of certificates that verify clients."""


class TrustSettings(Protocol):
    """The certificates to trust for upstream, as in the configuration's ``certificate``. Hashable."""

    @property
    def store(self) -> str | None:
        """``system``, ``mozilla`` or ``none``; ``None`` for certifi's roots, or those of OpenSSL's variables."""

    @property
    def certificate(self) -> str | None:
        """Certificates in PEM format, besides those of the store."""

    @property
    def certificate_path(self) -> tuple[Path, ...]:
        """Files of such certificates."""

    @property
    def certificate_directory_path(self) -> tuple[Path, ...]:
        """Folders of such files."""

    def __hash__(self) -> int:
        """Return a hash by value: contexts are cached by their settings."""


def server_context(tls: ServerSettings) -> ssl.SSLContext:
    """Return the context for connections from clients. Reads the files now; an inline key is never written to disk.

    :raises ConfigurationError: a file cannot be read or is invalid, or the key does not belong to the certificate.
    """
    reader = _PemReader()
    certificate_key, certificate = reader.inline_or_file("certificate", tls.certificate, tls.certificate_path)
    key_key, key = reader.inline_or_file("key", tls.key.get_secret_value() if tls.key else None, tls.key_path)
    authorities = reader.inline_or_files("client_certificate", tls.client_certificate, tls.client_certificate_path)
    reader.require_certificates(certificate_key, certificate)
    for authority_key, authority in authorities:
        reader.require_certificates(authority_key, authority)
    reader.raise_problems()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.set_alpn_protocols(["http/1.1"])
    _choose_ciphers(context, tls)
    _load_pair(context, certificate, key, key_key)
    for _, authority in authorities:
        context.load_verify_locations(cadata=authority)
    context.verify_mode = _CLIENT_AUTHENTICATION[tls.client_authentication]
    return context


def upstream_context(certificate: TrustSettings) -> ResumingContext:
    """Return the context that verifies upstream. The same settings return the same object.

    It takes about 50 ms to build (OpenSSL parses every root), so it is built once per process and shared.

    :raises ConfigurationError: a certificate to trust cannot be read.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    return _upstream_context(certificate, tuple((name, os.environ[name]) for name in names if os.environ.get(name)))


@functools.lru_cache(maxsize=4)
def _upstream_context(certificate: TrustSettings, environ: tuple[tuple[str, str], ...]) -> ResumingContext:
    return build_upstream_context(certificate, dict(environ))


def build_upstream_context(certificate: TrustSettings, environ: Mapping[str, str]) -> ResumingContext:
    """Return a new context that verifies upstream, with OpenSSL's variables from ``environ``."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Any trusted certificate is an anchor, even if it is not self-signed, as in Go and therefore in sing-box.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    reader = _PemReader()
    trusted = reader.inline_and_files(certificate)
    if certificate.store == "mozilla":
        context.load_verify_locations(cafile=certifi.where())
    elif certificate.store == "system":
        context.set_default_verify_paths()
    elif certificate.store is None:
        _load_default_roots(context, environ, reader)
    reader.raise_problems()
    for text in trusted:
        context.load_verify_locations(cadata=text)
    return context


def _load_default_roots(context: ssl.SSLContext, environ: Mapping[str, str], reader: _PemReader) -> None:
    """Trust certifi's roots, or those named by OpenSSL's variables, in which OpenSSL ignores errors silently."""
    file, folder = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    if not file and not folder:
        context.load_verify_locations(cafile=certifi.where())
    if file:
        reader.require_certificates("SSL_CERT_FILE", text := reader.read("SSL_CERT_FILE", Path(file)))
        if not reader.problems:
            context.load_verify_locations(cadata=text)
    if folder:
        for part in folder.split(os.pathsep):
            # Looked up by hash at each verification, so new files are found; the names are made by OpenSSL's c_rehash.
            context.load_verify_locations(capath=part)


def _choose_ciphers(context: ssl.SSLContext, tls: ServerSettings) -> None:
    chosen = [CIPHER_SUITES[name] for name in tls.cipher_suites if name in CIPHER_SUITES]
    if chosen:
        context.set_ciphers(":".join(chosen))
    elif tls.cipher_suites:
        context.minimum_version = ssl.TLSVersion.TLSv1_3


def _load_pair(context: ssl.SSLContext, certificate: str, key: str, key_key: str) -> None:
    with ExitStack() as files:
        paths = [files.enter_context(_in_memory(text)) for text in (certificate, key)]
        try:
            # Without a password, OpenSSL would prompt for one on the terminal and hang.
            context.load_cert_chain(paths[0], paths[1], password="")
        except (ssl.SSLError, ValueError) as exc:
            if getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH":
                found, expected = "the key of another certificate", "the private key of the certificate"
            elif "ENCRYPTED" in key:
                found, expected = "an encrypted key", "a key without a passphrase"
            else:
                found, expected = "no private key in it", "a private key in PEM format"
            raise ConfigurationError("tls", [ConfigProblem(key_key, found, expected)]) from exc


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Return a path to a text in memory: Python loads keys from paths only (cpython#60691)."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class _PemReader:
    """Reads PEM texts and collects their problems, to report all of them together."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigurationError("tls", self.problems)

    def read(self, key: str, path: Path) -> str:
        try:
            # PEM is ASCII; the names between the certificates of a bundle may be in any encoding.
            return path.read_text(encoding="ascii", errors="ignore")
        except OSError as exc:
            self.problems.append(ConfigProblem(key, f"{path}: {exc.strerror}", "a file that can be read"))
            return ""

    def inline_or_file(self, key: str, inline: str | None, path: Path | None) -> tuple[str, str]:
        """Return the text, and the configuration key that it comes from."""
        if inline or path is None:
            return key, inline or ""
        return f"{key}_path", self.read(f"{key}_path", path)

    def inline_or_files(self, key: str, inline: str | None, paths: tuple[Path, ...]) -> list[tuple[str, str]]:
        texts = [(key, inline.encode("ascii", "ignore").decode())] if inline else []
        return texts + [(f"{key}_path", self.read(f"{key}_path", path)) for path in paths]

    def inline_and_files(self, certificate: TrustSettings) -> list[str]:
        """Return all texts to trust in addition to a store."""
        texts = self.inline_or_files("certificate", certificate.certificate, certificate.certificate_path)
        for key, text in texts:
            self.require_certificates(key, text)
        folders = [text for path in certificate.certificate_directory_path for text in self._folder(path)]
        return [text for _, text in texts] + folders

    def require_certificates(self, key: str, text: str) -> None:
        is_reported = not text and any(problem.where == key for problem in self.problems)
        if not is_reported and not _holds_certificates(text):
            self.problems.append(ConfigProblem(key, "no certificate in it", _PEM))

    def _folder(self, folder: Path) -> list[str]:
        """Return the certificates in the files of a folder; other files are ignored, as in sing-box."""
        key = "certificate_directory_path"
        try:
            files = sorted(path for path in folder.iterdir() if path.is_file())
        except OSError as exc:
            self.problems.append(ConfigProblem(key, f"{folder}: {exc.strerror}", "a folder that can be read"))
            return []
        texts = [text for path in files if _holds_certificates(text := self.read(key, path))]
        if not texts:
            self.problems.append(ConfigProblem(key, f"{folder}: no certificate in it", f"files with {_PEM}"))
        return texts


def _holds_certificates(text: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError, TypeError):  # TypeError: an inline text that is not ASCII
        return False
    return True

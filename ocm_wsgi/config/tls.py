"""The keys for TLS towards clients and for trusting upstream, and their valid values. Reads no files."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ocm_wsgi.config.types import Expected, Flag, Location, Locations, Names, Pem, SecretPem, StrictModel, Text, invalid
from ocm_wsgi.tls.cipher_suites import CIPHER_SUITES, TLS13_CIPHER_SUITES


def _version(value: str) -> str:
    if value in ("1.0", "1.1"):
        raise invalid('"1.2" or "1.3"; older versions are deprecated (RFC 8996)')
    if value not in ("1.2", "1.3"):
        raise invalid('"1.2" or "1.3"')
    return value


def _client_authentication(value: str) -> str:
    if value in ("request", "require-any"):
        raise invalid(
            '"no", "verify-if-given" or "require-and-verify"; Python cannot request certificates without verifying them'
        )
    if value not in ("no", "verify-if-given", "require-and-verify"):
        raise invalid('"no", "verify-if-given" or "require-and-verify"')
    return value


def _alpn(values: tuple[str, ...]) -> tuple[str, ...]:
    if any(value != "http/1.1" for value in values):
        raise invalid(
            '"http/1.1" only; for HTTP/2 put nginx in front (deploy/nginx.conf)', '"' + '", "'.join(values) + '"'
        )
    return values


def _cipher_suites(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in CIPHER_SUITES and value not in TLS13_CIPHER_SUITES:
            raise invalid("names of cipher suites as sing-box lists them", f'"{value}"')
    return values


def _store(value: str) -> str:
    if value == "chrome":
        raise invalid('"mozilla", which is similar; Chrome\'s roots are not published as a package')
    if value not in ("system", "mozilla", "none"):
        raise invalid('"system", "mozilla" or "none"')
    return value


Version = Annotated[str, AfterValidator(_version), Expected('"1.2" or "1.3"')]


class TLS(StrictModel):
    """How gunicorn itself terminates TLS. Inline texts take precedence over paths, as in sing-box."""

    enabled: Flag = False
    server_name: Text | None = None
    certificate: Pem | None = None
    certificate_path: Location | None = None
    key: SecretPem | None = None
    key_path: Location | None = None
    min_version: Version = "1.2"
    max_version: Version = "1.3"
    cipher_suites: Annotated[Names, AfterValidator(_cipher_suites), Expected("a string or a list of strings")] = ()
    alpn: Annotated[Names, AfterValidator(_alpn), Expected("a string or a list of strings")] = ()
    client_authentication: Annotated[
        str, AfterValidator(_client_authentication), Expected('"no", "verify-if-given" or "require-and-verify"')
    ] = "no"
    client_certificate: Pem | None = None
    client_certificate_path: Locations = ()


class Certificate(StrictModel):
    """The certificates to trust for upstream.

    Without ``store``: certifi's roots, or ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
    """

    store: Annotated[Annotated[str, AfterValidator(_store)] | None, Expected('"system", "mozilla" or "none"')] = None
    certificate: Pem | None = Field(default=None, repr=False)
    certificate_path: Locations = ()
    certificate_directory_path: Locations = ()

    @model_validator(mode="after")
    def _trusts_something(self) -> Certificate:
        given = self.certificate or self.certificate_path or self.certificate_directory_path
        if self.store == "none" and not given:
            raise invalid(
                "certificate, certificate_path or certificate_directory_path together with store none",
                "a configuration that trusts no certificate",
            )
        return self

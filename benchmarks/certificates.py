"""The certificate of the benchmarks' upstream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

#: The host name in the certificate, besides the address.
CERTIFICATE_NAME = "localhost"
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate created for one run.

    :ivar authority: the authority that issued it, to be trusted by clients.
    """

    chain: Path
    key: Path
    authority: Path


def write_certificate(folder: Path, *names: str) -> Certificate:
    """Create a certificate and its authority in ``folder``, for further names too."""
    certificate = Certificate(folder / "chain.pem", folder / "key.pem", folder / "authority.pem")
    authority = trustme.CA()
    leaf = authority.issue_cert(CERTIFICATE_NAME, ADDRESS, *names)
    authority.cert_pem.write_to_path(certificate.authority)
    leaf.private_key_pem.write_to_path(certificate.key)
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(certificate.chain, append=True)
    return certificate

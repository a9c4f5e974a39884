"""The certificate of the benchmark's upstream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

#: The name that it is for, beside the address.
CERTIFICATE_NAME = "localhost"
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate that was made for one run.

    :ivar authority: whom to trust, to trust it.
    """

    chain: Path
    key: Path
    authority: Path


def write_certificate(folder: Path, *names: str) -> Certificate:
    """Make a certificate, with an authority of its own, in ``folder``; for further names, too."""
    certificate = Certificate(folder / "chain.pem", folder / "key.pem", folder / "authority.pem")
    authority = trustme.CA()
    leaf = authority.issue_cert(CERTIFICATE_NAME, ADDRESS, *names)
    authority.cert_pem.write_to_path(certificate.authority)
    leaf.private_key_pem.write_to_path(certificate.key)
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(certificate.chain, append=True)
    return certificate

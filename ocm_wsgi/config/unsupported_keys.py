"""Keys of sing-box that this service does not have, each with the reason. A key that is off is let through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.errors import ConfigProblem

_UDP = "OCM is HTTP over TCP, there is no UDP here"
_SNIFF = "sniffing belongs to sing-box's routing, and its inbound fields are withdrawn there too"
_PROXY_PROTOCOL = "sing-box withdrew it in 1.6; put nginx in front, which passes the client's address"
_NGINX = "put nginx in front for that (deploy/nginx.conf)"
_LATER = "several credentials come later"

SERVICE = {
    "udp_fragment": _UDP,
    "udp_timeout": _UDP,
    "udp_disable_domain_unmapping": _UDP,
    "sniff": _SNIFF,
    "sniff_override_destination": _SNIFF,
    "sniff_timeout": _SNIFF,
    "domain_strategy": _SNIFF,
    "proxy_protocol": _PROXY_PROTOCOL,
    "proxy_protocol_accept_no_header": _PROXY_PROTOCOL,
    "credentials": f"{_LATER}; use credential_path",
}
USER = {
    "credential": f"{_LATER}; all users share credential_path",
    "external_credential": f"{_LATER}; all users share credential_path",
    "allow_external_usage": f"{_LATER}; all users share credential_path",
}
TLS = {
    "acme": f"Python's TLS server obtains no certificates; {_NGINX}",
    "certificate_provider": f"Python's TLS server obtains no certificates; {_NGINX}",
    "ech": f"Python's TLS server has no Encrypted Client Hello; {_NGINX}",
    "reality": f"Python's TLS server has no Reality; {_NGINX}",
    "insecure": "no certificate is made up here; give certificate_path and key_path",
    "curve_preferences": f"Python cannot choose among curves; {_NGINX}",
    "kernel_tx": f"Python's TLS server has no kernel TLS; {_NGINX}",
    "kernel_rx": f"Python's TLS server has no kernel TLS; {_NGINX}",
    "client_certificate_public_key_sha256": f"Python verifies clients by authority, not by key; {_NGINX}",
}
CERTIFICATE = {
    "tls_decryption": "this service decrypts nobody's traffic",
}


def is_off(value: Any) -> bool:
    """Return whether sing-box takes the value as if the key were not there."""
    return not value or (isinstance(value, dict) and value.get("enabled") is False)


def without_refused(
    members: Mapping[str, Any], refused: Mapping[str, str], path: JsonPath
) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """Return the members less the refused ones, and a problem for each of these that is on."""
    kept, problems = {}, []
    for key, value in members.items():
        if key not in refused:
            kept[key] = value
        elif not is_off(value):
            reason = f"it to be left out: {refused[key]}"
            problems.append(ConfigProblem(json_path((*path, key)), f"the key {key}, which has no use here", reason))
    return kept, problems

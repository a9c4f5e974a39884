"""sing-box's keys that this service does not support, each with the reason. A key that is off is ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.errors import ConfigProblem

_UDP = "the service uses HTTP over TCP, never UDP"
_SNIFF = "sniffing is part of sing-box's routing, and its inbound fields are deprecated there too"
_PROXY_PROTOCOL = "sing-box removed it in 1.6; put nginx in front, which passes on the client's address"
_NGINX = "put nginx in front instead (deploy/nginx.conf)"

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
}
TLS = {
    "acme": f"Python's TLS server obtains no certificates; {_NGINX}",
    "certificate_provider": f"Python's TLS server obtains no certificates; {_NGINX}",
    "ech": f"Python's TLS server has no Encrypted Client Hello; {_NGINX}",
    "reality": f"Python's TLS server has no Reality; {_NGINX}",
    "insecure": "no self-signed certificate is generated here; set certificate_path and key_path",
    "curve_preferences": f"Python cannot select curves; {_NGINX}",
    "kernel_tx": f"Python's TLS server has no kernel TLS; {_NGINX}",
    "kernel_rx": f"Python's TLS server has no kernel TLS; {_NGINX}",
    "client_certificate_public_key_sha256": f"Python verifies clients by issuer, not by key; {_NGINX}",
}
CERTIFICATE = {
    "tls_decryption": "this service does not intercept TLS traffic",
}


def is_off(value: Any) -> bool:
    """Return whether sing-box treats the value as if the key were absent."""
    return not value or (isinstance(value, dict) and value.get("enabled") is False)


def remove_unsupported(
    members: Mapping[str, Any], unsupported: Mapping[str, str], path: JsonPath
) -> tuple[dict[str, Any], list[ConfigProblem]]:
    """Return the members without the unsupported ones, and a problem for each of these that is on."""
    supported, problems = {}, []
    for key, value in members.items():
        if key not in unsupported:
            supported[key] = value
        elif not is_off(value):
            reason = f"it to be left out: {unsupported[key]}"
            problems.append(
                ConfigProblem(json_path((*path, key)), f"the key {key}, which is not supported here", reason)
            )
    return supported, problems

"""The configuration: sing-box's file format plus environment variables, with all problems reported together.

``load`` is the whole interface; the rest are the types of its result. Needs neither a server nor Flask.
"""

from __future__ import annotations

from ocm_wsgi.config.credentials import (
    AccountConfig,
    Balancer,
    DefaultCredential,
    ExternalCredential,
    PoolConfig,
)
from ocm_wsgi.config.extra_endpoints import ExtraEndpoint
from ocm_wsgi.config.loader import load
from ocm_wsgi.config.service import Config, scalar_keys
from ocm_wsgi.config.tls import TLS, Certificate
from ocm_wsgi.config.users import Limit, Price, UserConfig

__all__ = [
    "TLS",
    "AccountConfig",
    "Balancer",
    "Certificate",
    "Config",
    "DefaultCredential",
    "ExternalCredential",
    "ExtraEndpoint",
    "Limit",
    "PoolConfig",
    "Price",
    "UserConfig",
    "cautions",
    "current",
    "load",
    "scalar_keys",
    "times",
]

"""The configuration: sing-box's own file format, the environment, and every problem told at once.

``load`` is the whole interface; the rest are the types of what it returns. Needs no server and no Flask.
"""

from __future__ import annotations

from ocm_wsgi.config.loader import load
from ocm_wsgi.config.service import Config, scalar_keys
from ocm_wsgi.config.tls import TLS, Certificate
from ocm_wsgi.config.users import Limit, Price, UserConfig

__all__ = ["TLS", "Certificate", "Config", "Limit", "Price", "UserConfig", "load", "scalar_keys"]

"""Refuses turns whose usage becomes known too late, or never, to users whose limits depend on it. Pure."""

from __future__ import annotations

from ocm_wsgi.errors import LimitUnmeasurable
from ocm_wsgi.protocol.endpoints.endpoint import Endpoint
from ocm_wsgi.users.user import User


def require_metered(user: User, endpoint: Endpoint) -> None:
    """Refuse a turn that runs elsewhere or later, where any amount may be used, if a limit would not stop it.

    An estimate would not do: one call or one batch can use what is left of a subscription.

    :raises LimitUnmeasurable: the user has a limit in tokens, USD or percent.
    """
    if endpoint.is_metered or all(limit.unit == "requests" for limit in user.limits):
        return
    raise LimitUnmeasurable(
        f"/v1/{endpoint.path} is not available to you: what it uses becomes known too late or never, and you have a "
        "limit in tokens, USD or percent. Ask the owner of the service."
    )

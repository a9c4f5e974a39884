"""Device logins waiting for approval (CODEX.md 2.2), independent of HTTP; ``oauth.py`` has the endpoints."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Device:
    """A device login under way.

    :ivar polls: the number of polls so far.
    """

    user_code: str
    is_approved: bool = False
    polls: int = 0


@dataclass
class Devices:
    """The device logins (CODEX.md 2.2).

    :ivar polls_before_approval: the number of polls that find a login pending before it counts as approved, or
        ``None`` to approve by :meth:`approve` only.
    """

    polls_before_approval: int | None = 1
    _waiting: dict[str, Device] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> tuple[str, str]:
        """Return a new device's id and user code."""
        device_auth_id = f"deviceauth_{secrets.token_hex(16)}"
        user_code = f"{secrets.token_hex(2)}-{secrets.token_hex(2)}".upper()
        with self._lock:
            self._waiting[device_auth_id] = Device(user_code)
        return device_auth_id, user_code

    def approve(self, user_code: str) -> None:
        with self._lock:
            for device_auth_id, device in self._waiting.items():
                if device.user_code == user_code:
                    self._waiting[device_auth_id] = replace(device, is_approved=True)

    def poll(self, device_auth_id: str, user_code: str) -> bool | None:
        """Return whether the login is approved, which ends it, or ``None`` if there is no such login."""
        with self._lock:
            device = self._waiting.get(device_auth_id)
            if device is None or device.user_code != user_code:
                return None
            limit = self.polls_before_approval
            if device.is_approved or (limit is not None and device.polls >= limit):
                del self._waiting[device_auth_id]
                return True
            self._waiting[device_auth_id] = replace(device, polls=device.polls + 1)
            return False

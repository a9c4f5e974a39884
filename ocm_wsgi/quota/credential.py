"""The name of the owner's credential, to which the quota belongs. Pure; no I/O."""

from __future__ import annotations

#: The owner's credential in rows, labels and defaults. So far there is only one. It is defined here because each
#: credential has its quota, and every package that needs the name, from the ledger to the views, can import this one.
DEFAULT_CREDENTIAL = "default"

"""The name of the owner's credential, whose subscription the quota is. Pure; no I/O."""

from __future__ import annotations

#: Names the owner's credential in rows, labels and defaults. There is one so far. Quota is what a credential has, and
#: this package, which imports nothing, can be imported wherever the name is needed, from the ledger to the views.
DEFAULT_CREDENTIAL = "default"

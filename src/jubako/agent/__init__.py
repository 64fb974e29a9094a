"""The agent that runs inside a sandbox as its first process.

Standard library only, Python 3.8 or later, never imported by host code: ``jubako.guest.bundle``
turns these modules into one ``.pyc`` for the guest's interpreter. The wire format is specified in
``docs/reference/agent-protocol.md``.
"""

__all__: list = []  # type: ignore[type-arg]  # nothing here is for host code

"""What programs inside do, as the sentry (gVisor's kernel) tells it over a trace session."""

from jubako.drivers.runsc.trace._acts import Activity
from jubako.drivers.runsc.trace._session import TraceSession

__all__ = ["Activity", "TraceSession"]

"""L3: the ``runsc`` driver: gVisor's application kernel, inside a bubblewrap jail."""

from jubako.drivers.runsc.driver import RunscDriver

__all__ = ["RunscDriver"]

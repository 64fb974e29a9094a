"""The process boundary by bubblewrap."""

from jubako.drivers.bwrap.driver import BwrapDriver

__all__ = ["BwrapDriver"]

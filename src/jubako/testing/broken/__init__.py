"""Deliberately broken drivers: each breaks one promise around a driver that keeps it.

They prove that the checks of the suite can fail. ``BrokenDriver(inner)`` itself changes nothing;
each class in ``BROKEN_DRIVERS`` lists in ``breaks`` the checks that must turn red, and no others.
"""

from typing import Final

from jubako.testing.broken._delegate import BrokenDriver, BrokenFiles, BrokenInstance, BrokenProcess
from jubako.testing.broken._files import FILE_DEFECTS
from jubako.testing.broken._instances import INSTANCE_DEFECTS
from jubako.testing.broken._plans import PLAN_DEFECTS
from jubako.testing.broken._programs import PROGRAM_DEFECTS
from jubako.testing.broken._streams import STREAM_DEFECTS

__all__ = ["BROKEN_DRIVERS", "BrokenDriver", "BrokenFiles", "BrokenInstance", "BrokenProcess"]

BROKEN_DRIVERS: Final[tuple[type[BrokenDriver], ...]] = (
    *PLAN_DEFECTS,
    *PROGRAM_DEFECTS,
    *STREAM_DEFECTS,
    *FILE_DEFECTS,
    *INSTANCE_DEFECTS,
)
"""All of them, the cheap ones first."""

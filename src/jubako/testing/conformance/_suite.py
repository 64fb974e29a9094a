"""All groups put together."""

from __future__ import annotations

from jubako.testing.conformance._arguments import ArgumentChecks
from jubako.testing.conformance._base import PytestChecks
from jubako.testing.conformance._exec import ExecChecks
from jubako.testing.conformance._features import FeatureChecks, PortChecks
from jubako.testing.conformance._files import FileChecks
from jubako.testing.conformance._isolation import IsolationChecks, NeighbourChecks
from jubako.testing.conformance._lifecycle import LifecycleChecks
from jubako.testing.conformance._limits import LimitChecks
from jubako.testing.conformance._output import OutputChecks
from jubako.testing.conformance._plan import PlanChecks
from jubako.testing.conformance._preload import PreloadChecks
from jubako.testing.conformance._signals import EndingChecks, SignalChecks
from jubako.testing.conformance._stopping import StopChecks
from jubako.testing.conformance._tools import ToolChecks
from jubako.testing.conformance._trees import TreeChecks, WatchChecks
from jubako.testing.conformance._tty import TerminalChecks
from jubako.testing.conformance._usage import UsageChecks

__all__ = ["AllChecks", "DriverConformance"]


class AllChecks(
    ArgumentChecks,
    EndingChecks,
    ExecChecks,
    FeatureChecks,
    FileChecks,
    IsolationChecks,
    LifecycleChecks,
    LimitChecks,
    NeighbourChecks,
    OutputChecks,
    PlanChecks,
    PortChecks,
    PreloadChecks,
    SignalChecks,
    StopChecks,
    TerminalChecks,
    ToolChecks,
    TreeChecks,
    UsageChecks,
    WatchChecks,
):
    """Every check, for ``jubako.testing.runner``."""


class DriverConformance(AllChecks, PytestChecks):
    """Every check, for pytest: subclass it and override the ``driver`` fixture."""

"""The conformance suite: what every driver must do, as pytest base classes.

Subclass ``DriverConformance`` and override its ``driver`` fixture, see docs/howto/write-a-driver.md.
"""

from importlib.util import find_spec

from jubako.errors import MissingExtraError

if find_spec("pytest") is None:
    message = "the conformance suite needs pytest"
    raise MissingExtraError(message, hint="pip install 'jubako[testing]'", details={"extra": "testing"})

from jubako.testing.conformance._arguments import ArgumentChecks
from jubako.testing.conformance._base import PytestChecks
from jubako.testing.conformance._bench import MakeGuest, MakeInstance, Setup, Workbench, make_root
from jubako.testing.conformance._checks import Check, Checks, check, check_of, checks_of, run_check
from jubako.testing.conformance._exec import ExecChecks
from jubako.testing.conformance._features import FeatureChecks, PortChecks
from jubako.testing.conformance._files import FileChecks
from jubako.testing.conformance._guest import (
    Finished,
    Guest,
    Toolchain,
    collect,
    eventually,
    marker,
    read_all,
    read_until,
    soon,
    stretched,
)
from jubako.testing.conformance._isolation import IsolationChecks, NeighbourChecks
from jubako.testing.conformance._lifecycle import LifecycleChecks
from jubako.testing.conformance._limits import LimitChecks
from jubako.testing.conformance._output import OutputChecks
from jubako.testing.conformance._plan import PlanChecks
from jubako.testing.conformance._signals import EndingChecks, SignalChecks
from jubako.testing.conformance._stopping import StopChecks
from jubako.testing.conformance._suite import AllChecks, DriverConformance
from jubako.testing.conformance._tools import ToolChecks
from jubako.testing.conformance._trees import TreeChecks, WatchChecks
from jubako.testing.conformance._tty import TerminalChecks
from jubako.testing.conformance._usage import UsageChecks

__all__ = [
    "AllChecks",
    "ArgumentChecks",
    "Check",
    "Checks",
    "DriverConformance",
    "EndingChecks",
    "ExecChecks",
    "FeatureChecks",
    "FileChecks",
    "Finished",
    "Guest",
    "IsolationChecks",
    "LifecycleChecks",
    "LimitChecks",
    "MakeGuest",
    "MakeInstance",
    "NeighbourChecks",
    "OutputChecks",
    "PlanChecks",
    "PortChecks",
    "PytestChecks",
    "Setup",
    "SignalChecks",
    "StopChecks",
    "TerminalChecks",
    "ToolChecks",
    "Toolchain",
    "TreeChecks",
    "UsageChecks",
    "WatchChecks",
    "Workbench",
    "check",
    "check_of",
    "checks_of",
    "collect",
    "eventually",
    "make_root",
    "marker",
    "read_all",
    "read_until",
    "run_check",
    "soon",
    "stretched",
]

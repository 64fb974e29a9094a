"""L3: where events go. The ledger is the one that a launch can't do without."""

from jubako.sinks._chain import Head
from jubako.sinks.ledger import Ledger, LedgerRecovery, read_key
from jubako.sinks.verify import LedgerProblem, LedgerReport, ProblemKind, read_ledger, verify_ledger

__all__ = [
    "Head",
    "Ledger",
    "LedgerProblem",
    "LedgerRecovery",
    "LedgerReport",
    "ProblemKind",
    "read_key",
    "read_ledger",
    "verify_ledger",
]

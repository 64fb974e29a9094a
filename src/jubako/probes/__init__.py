"""Containment probes: hostile programs, grouped by the control that must contain them."""

from __future__ import annotations

from jubako.probes.catalogue import PROBES
from jubako.probes.model import Probe, ProbeResult, ProbeRunReport, Verdict
from jubako.probes.results import card_probes, load_results, to_document
from jubako.probes.runner import run_probes, select_probes

__all__ = [
    "PROBES",
    "Probe",
    "ProbeResult",
    "ProbeRunReport",
    "Verdict",
    "card_probes",
    "load_results",
    "run_probes",
    "select_probes",
    "to_document",
]

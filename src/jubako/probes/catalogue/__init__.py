"""Every containment probe, grouped by what its control guards."""

from __future__ import annotations

from jubako.probes.catalogue.files import FILES
from jubako.probes.catalogue.kernel import KERNEL
from jubako.probes.catalogue.network import NETWORK
from jubako.probes.catalogue.process import PROCESS
from jubako.probes.catalogue.resource import RESOURCE

__all__ = ["PROBES"]

PROBES = (*FILES, *NETWORK, *KERNEL, *PROCESS, *RESOURCE)
"""In the order in which they run and are shown."""

"""System call filters: an allowlist with reasons, compiled to BPF without a C library."""

from __future__ import annotations

from jubako.linux.seccomp.compiler import compile_filter
from jubako.linux.seccomp.default import DEFAULT
from jubako.linux.seccomp.describe import Row, describe, markdown
from jubako.linux.seccomp.model import ESSENTIAL, ArgumentRule, Case, Group, Profile, Test, Verdict
from jubako.linux.seccomp.tables import Arch, current_arch, numbers

__all__ = [
    "DEFAULT",
    "ESSENTIAL",
    "Arch",
    "ArgumentRule",
    "Case",
    "Group",
    "Profile",
    "Row",
    "Test",
    "Verdict",
    "compile_filter",
    "current_arch",
    "describe",
    "markdown",
    "numbers",
]

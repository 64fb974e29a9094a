"""System call numbers by architecture."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from jubako.errors import DriverUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Arch", "current_arch", "numbers"]

_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class Arch(StrEnum):
    """Architectures with a table, by the name that ``uname -m`` gives them."""

    AARCH64 = "aarch64"
    X86_64 = "x86_64"

    @property
    def audit(self) -> int:
        """The AUDIT_ARCH value that the kernel shows to a filter."""
        return _AUDIT[self.value]


def current_arch() -> Arch:
    """Return this machine's architecture.

    Raises:
        DriverUnavailableError: There is no table for it.
    """
    machine = os.uname().machine
    try:
        return Arch(machine)
    except ValueError:
        msg = f"no system call table for {machine}"
        hint = f"use a machine of {', '.join(Arch)}"
        raise DriverUnavailableError(msg, hint=hint, details={"machine": machine}) from None


def numbers(arch: Arch) -> Mapping[str, int]:
    """Return the numbers of all known calls of ``arch`` by name."""
    if arch is Arch.X86_64:
        from jubako.linux.seccomp import _x86_64

        return _x86_64.NUMBERS
    from jubako.linux.seccomp import _aarch64

    return _aarch64.NUMBERS

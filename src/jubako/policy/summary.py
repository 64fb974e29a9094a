"""A policy in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jubako._lib.units import format_seconds, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jubako.policy.model import Policy

__all__ = ["summarize"]


def summarize(policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield the clauses of ``policy`` as label and reading. Values of variables are left out."""
    yield "network", "off: nothing but the sandbox's own loopback"
    yield from _files(policy)
    yield from _limits(policy)
    # Names only: a value may be something that should not stand in a card.
    yield "environment", ", ".join(sorted(policy.environment.variables)) or "nothing of the host's"
    for name, grant in sorted(policy.tools.items()):
        calls = f"{grant.calls} call{'' if grant.calls == 1 else 's'}, {format_seconds(grant.seconds)} each"
        sizes = f"{format_size(grant.request_bytes)} in, {format_size(grant.response_bytes)} out"
        yield "host function", f"{name}: {calls}, {sizes}"
    if policy.observe.activity:
        yield "recorded", f"programs, connections, and what is opened in {', '.join(policy.observe.sensitive) or '-'}"
    for name, clause in sorted(policy.secrets.items()):
        yield "secret", f"{name} for {', '.join(clause.hosts)}"
    labels, regions = policy.data.labels, policy.data.regions
    if labels or regions:
        yield "data", f"labels {', '.join(labels) or 'none'}; regions {', '.join(regions) or 'any'}"


def _files(policy: Policy) -> Iterator[tuple[str, str]]:
    files = policy.files
    size, tmp = format_size(files.workspace_size), format_size(files.tmp_size)
    yield "files", f"root read-only; {files.workspace} writable up to {size}; /tmp and /dev/shm up to {tmp} each"
    for mount in files.mounts:
        yield "mount", f"{mount.target} shows {mount.source}, {'writable' if mount.access == 'rw' else 'read-only'}"
    if files.hide:
        yield "hidden", ", ".join(files.hide)
    if policy.syscalls.deny:
        yield "system calls", f"allowlist without {', '.join(policy.syscalls.deny)}"


def _limits(policy: Policy) -> Iterator[tuple[str, str]]:
    limits = policy.resources
    swap = f" and {format_size(limits.swap)} of swap" if limits.swap else ", no swap"
    yield "memory", format_size(limits.memory) + swap
    yield (
        "limits",
        (
            f"{limits.cpus:g} CPU{'' if limits.cpus == 1 else 's'}, {limits.processes} processes,"
            f" {limits.open_files} open files each, {limits.inodes} files made"
        ),
    )
    if limits.io_bytes_per_second is not None:
        yield "disk", f"{format_size(limits.io_bytes_per_second)}/s"
    end = "killed" if policy.output.on_limit == "kill" else "cut"
    yield "output", f"{format_size(policy.output.max_bytes)} per program, then {end}"
    yield "time", f"{format_seconds(policy.time.exec)} per program, {format_seconds(policy.time.sandbox)} in all"

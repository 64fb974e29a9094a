"""Probes of resource.* and time.*: bombs, floods, and programs that won't end. All are bounded by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from jubako._lib.levels import Enforcement
from jubako.probes.catalogue._ways import BARE, CALLER, HOST
from jubako.probes.model import Outside, Place, Probe, Profile

__all__ = ["RESOURCE"]

_TIGHT: Final = Profile.TIGHT


def _bomb(
    control: str,
    name: str,
    title: str,
    program: str,
    *,
    profile: Profile = _TIGHT,
    claim: Enforcement = Enforcement.PARTIAL,
    **arguments: str,
) -> Probe:
    return Probe(
        name=name,
        control=control,
        title=title,
        program=f"resource/{program}.py",
        arguments=arguments,
        outside=BARE,
        profile=profile,
        claim=claim,
        alone=True,
        death=True,
    )


def _memory(name: str, title: str, how: str, claim: Enforcement = Enforcement.PARTIAL, heap: str = "") -> Probe:
    return _bomb("resource.memory", name, title, "memory", claim=claim, how=how, mib="160", reserve="640", heap=heap)


def _fill(name: str, title: str, paths: str) -> Probe:
    return _bomb("resource.disk", name, title, "fill", paths=paths, mib="24")


def _flood(name: str, where: str) -> Probe:
    return Probe(
        name=name,
        control="resource.output",
        title=f"Flood {where}",
        program="resource/flood.py",
        arguments={"where": where, "mib": "4"},
        outside=HOST,
        profile=_TIGHT,
        scenario="flood",
    )


def _stubborn(name: str, title: str, kind: str) -> Probe:
    return Probe(
        name=name,
        control="time.exec",
        title=title,
        program="resource/stubborn.py",
        arguments={"kind": kind, "path": "heart", "seconds": "2.5", "tag": "{tag}"},
        outside=HOST,
        scenario="timeout",
        alone=True,
    )


_ENFORCED: Final = Enforcement.ENFORCED

_MEMORY: Final = (
    _memory("one-process", "Use far more memory than allowed", "anonymous"),
    _memory("heap", "Use far more memory than allowed on the heap", "anonymous", heap="1"),
    _memory("shared", "Use shared memory", "shared"),
    _memory("system-v", "Use shared memory that stays when its process ends", "system-v", _ENFORCED),
    _memory("memory-file", "Use memory by an unnamed file", "file", _ENFORCED),
    replace(_memory("locked", "Lock memory", "locked"), outside=CALLER),
    _bomb(
        "resource.memory",
        "many-processes",
        "Use memory by many processes that stay small",
        "memory_tree",
        claim=_ENFORCED,
        count="8",
        mib="24",
    ),
)

_PROCESSES: Final = (
    _bomb("resource.processes", "forks", "Fork more than allowed", "forks", count="150"),
    _bomb("resource.processes", "threads", "Start more threads than allowed", "threads", count="300"),
)

_CPU: Final = (
    Probe(
        name="burn",
        control="resource.cpu",
        title="Use more CPU than allowed, by two processes",
        program="resource/burn.py",
        arguments={"seconds": "4", "tag": "{tag}"},
        outside=HOST,
        scenario="burn",
        profile=Profile.SLOW,
        claim=_ENFORCED,
        alone=True,
    ),
)

_DISK: Final = (
    _fill("workspace", "Fill the workspace", "/workspace"),
    _fill("tmp", "Fill /tmp", "/tmp"),  # noqa: S108  # a path inside
    _fill("shm", "Fill /dev/shm", "/dev/shm"),  # noqa: S108  # a path inside
    _bomb(
        "resource.disk",
        "many-files",
        "Fill the workspace with many small files",
        "spread",
        path="/workspace",
        count="24",
    ),
    Probe(
        name="elsewhere",
        control="resource.disk",
        title="Fill any other writable place",
        program="resource/fill.py",
        arguments={"paths": "*", "known": "/workspace,/tmp,/dev/shm", "mib": "24"},
        outside=Outside(place=Place.REFERENCE),
        profile=_TIGHT,
        alone=True,
        death=True,
    ),
    Probe(
        name="core-dump",
        control="resource.disk",
        title="Leave a core dump on the host",
        program="resource/core_dump.py",
        outside=HOST,
    ),
    Probe(
        name="disk",
        control="resource.io",
        title="Load a disk by writing through to it",
        program="resource/disk.py",
        outside=Outside(place=Place.HOST, arguments={"paths": "{room}"}),
    ),
    _bomb(
        "resource.inodes",
        "workspace",
        "Make far more files than allowed",
        "inodes",
        path="/workspace",
        count="5000",
        profile=Profile.FILES,
        claim=_ENFORCED,
    ),
    _bomb("resource.open-files", "flood", "Open more descriptors than allowed", "descriptors", count="500"),
)

_OUTPUT: Final = (
    _flood("stdout", "stdout"),
    _flood("stderr", "stderr"),
    _flood("both", "both"),
    Probe(
        name="terminal-text",
        control="resource.output",
        title="Make the caller's terminal obey, by error text",
        program="resource/escapes.py",
        outside=HOST,
        scenario="terminal-text",
    ),
)

_TIME: Final = (
    _stubborn("ignore-signals", "Run on, ignoring every signal", "plain"),
    _stubborn("daemon", "Run on as a daemon in a session of its own", "daemon"),
    _stubborn("runner", "Run on by forking faster than one can kill", "runner"),
    Probe(
        name="overstay",
        control="time.sandbox",
        title="Live on after the sandbox's time to live",
        program="resource/heart.py",
        arguments={"path": "heart", "beats": "400", "tag": "{tag}"},
        outside=HOST,
        profile=Profile.BRIEF,
        scenario="overstay",
        alone=True,
    ),
)

RESOURCE: Final = (*_MEMORY, *_PROCESSES, *_CPU, *_DISK, *_OUTPUT, *_TIME)
"""All probes of resource.* and time.*."""

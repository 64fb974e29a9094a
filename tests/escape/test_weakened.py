"""Probes can fail: with a wall of the real driver taken away, the probes of that wall report an escape."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from weakened import (
    GIB,
    LateEnd,
    NoFreezer,
    NoOutputLimit,
    NoTimeout,
    Weakening,
    instead,
    plus,
    weakened,
    without,
)

from jubako.probes import PROBES, Verdict, run_probes

if TYPE_CHECKING:
    from jubako.guest import SessionConfig
    from jubako.linux.cgroup import Limits

pytestmark = [pytest.mark.driver("bwrap"), pytest.mark.timeout(120)]


def _big_places(config: SessionConfig) -> SessionConfig:
    return replace(config, mounts=tuple(replace(mount, size=GIB, inodes=10**6) for mount in config.mounts))


def _shared_tmp(config: SessionConfig) -> SessionConfig:
    return replace(config, mounts=tuple(mount for mount in config.mounts if mount.path != "/tmp"))


def _unmasked(config: SessionConfig) -> SessionConfig:
    return replace(config, masks=())


def _no_rlimits(config: SessionConfig) -> SessionConfig:
    return replace(config, rlimits={})


def _no_limits(limits: Limits) -> Limits:
    return replace(limits, memory=8 * GIB, processes=10**4, cpus=64.0)


def _leaky(config: SessionConfig) -> SessionConfig:
    return replace(config, env={**os.environ, **config.env})


def _no_filter(config: SessionConfig) -> SessionConfig:
    # Without a filter the agent keeps the capabilities of its start-up.
    return replace(config, seccomp=b"")


SYSCALLS = tuple(
    probe.id
    for probe in PROBES
    if probe.control == "syscall.allowlist"
    and probe.id.partition("/")[2] not in {"administration", "kernel-log", "reboot", "file-handles"}
)

WEAKENINGS = (
    Weakening(
        "system call filter",
        (
            *SYSCALLS,
            "net.sockets/every-family",
            "net.sockets/netlink",
            "net.sockets/vsock",
            "net.sockets/socket-filters",
            "syscall.terminal-injection/*",
        ),
        seccomp=False,
        landlock=True,
    ),
    Weakening(
        "network namespace",
        (
            "net.default-deny/host-*",
            "net.default-deny/ipv6",
            "net.default-deny/dns",
            "net.default-deny/interfaces",
            "net.default-deny/inbound",
        ),
        namespaces=without("--unshare-net"),
        landlock=True,
    ),
    Weakening(
        "IPC namespace",
        ("process.ipc/shared-memory", "process.ipc/message-queue", "process.ipc/semaphores"),
        namespaces=without("--unshare-ipc"),
        landlock=True,
    ),
    Weakening(
        "pid namespace",
        ("process.isolation/command-lines", "process.isolation/disturb"),
        namespaces=without("--unshare-pid", "--as-pid-1"),
        mounts=instead(("--proc", "/proc"), ("--ro-bind", "/proc", "/proc")),
        needs_root=True,
    ),
    Weakening(
        "hidden host files",
        ("fs.host-hidden/var-file", "fs.host-hidden/listing"),
        mounts=plus("--ro-bind", "/var", "/var"),
        landlock=True,
    ),
    Weakening(
        "private /tmp",
        ("fs.private-tmp/host-tmp", "fs.host-hidden/temporary-file", "fs.host-hidden/service-socket"),
        mounts=plus("--ro-bind", "/tmp", "/tmp"),
        session=_shared_tmp,
        landlock=True,
    ),
    Weakening(
        "read-only root",
        ("fs.ro-root/write-top", "resource.disk/elsewhere"),
        mounts=plus("--tmpfs", "/opt"),
    ),
    Weakening("unprivileged host user", ("process.identity/kernel-root",), drop=False, landlock=True, needs_root=True),
    Weakening("hidden paths", ("fs.host-hidden/hidden-path",), hide=False, landlock=True),
    Weakening(
        "read-only grants",
        ("fs.mounts/write-granted", "fs.mounts/change-granted", "fs.mounts/hard-link"),
        mounts=lambda words: tuple(
            "--bind" if word == "--ro-bind" and words[at + 2] == "/mnt/granted" else word
            for at, word in enumerate(words)
        ),
    ),
    Weakening("second wall", ("fs.second-wall/*",)),
    Weakening(
        "private devices",
        ("fs.devices/nodes",),
        mounts=instead(("--dev", "/dev"), ("--dev", "/dev", "--dev-bind", "/dev/kmsg", "/dev/kmsg")),
    ),
    Weakening("masks of /proc", ("fs.proc/kernel-state", "fs.proc/machine-state"), session=_unmasked, landlock=True),
    Weakening("absent /sys", ("fs.proc/sysfs-read",), mounts=plus("--ro-bind", "/sys", "/sys"), landlock=True),
    Weakening(
        "sizes of writable places",
        (
            "resource.disk/workspace",
            "resource.disk/tmp",
            "resource.disk/shm",
            "resource.disk/many-files",
            "resource.inodes/*",
        ),
        session=_big_places,
        limits=_no_limits,
        landlock=True,
    ),
    Weakening(
        "limits",
        (
            "resource.memory/one-process",
            "resource.memory/heap",
            "resource.memory/shared",
            "resource.processes/*",
            "resource.open-files/*",
        ),
        session=_no_rlimits,
        limits=_no_limits,
        landlock=True,
    ),
    Weakening(
        "limits that only cgroups have",
        (
            "resource.memory/memory-file",
            "resource.memory/many-processes",
            "resource.memory/system-v",
            "resource.cpu/burn",
        ),
        session=_no_rlimits,
        limits=_no_limits,
        landlock=True,
        needs_root=True,
    ),
    Weakening("empty environment", ("process.environment/secrets",), session=_leaky, landlock=True),
    Weakening(
        "capability drop",
        ("syscall.capabilities/held", "syscall.capabilities/mount", "syscall.no-nested-namespaces/unshare"),
        session=_no_filter,
    ),
    Weakening("time limit", ("time.exec/*",), instance=NoTimeout, landlock=True),
    Weakening(
        "output limit",
        ("resource.output/stdout", "resource.output/stderr", "resource.output/both"),
        instance=NoOutputLimit,
    ),
    Weakening("freezer", ("process.freeze/*",), instance=NoFreezer, needs_root=True),
    Weakening("end of the tree", ("process.kill-tree/outlive",), instance=LateEnd),
)


@pytest.mark.parametrize("weakening", WEAKENINGS, ids=lambda item: item.name.replace(" ", "-"))
def test_probes_notice_a_missing_wall(weakening: Weakening) -> None:
    if weakening.needs_root and os.geteuid() != 0:
        pytest.skip("an ordinary user's sandbox lacks this wall, or shares its user with the test")

    async def run() -> dict[str, str]:
        with weakened(weakening) as driver:
            report = await run_probes(driver=driver, only=weakening.escapes, store=False)
        return {
            item.id: f"{item.inside} | {item.reason}" for item in report.results if item.verdict is not Verdict.ESCAPED
        }

    assert anyio.run(run) == {}

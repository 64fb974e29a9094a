"""A profile as rows for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jubako.linux.seccomp.model import Verdict

if TYPE_CHECKING:
    from jubako.linux.seccomp.model import Profile

__all__ = ["Row", "describe", "markdown"]


class Row(NamedTuple):
    """One group or rule: what happens to which calls, and why."""

    verdict: str
    name: str
    reason: str
    syscalls: tuple[str, ...]
    condition: str = ""


def describe(profile: Profile) -> list[Row]:
    """Return one row per group and rule: allowed ones first, then those with conditions, then refused ones."""
    groups = [
        Row(group.verdict.name, group.name, group.reason, tuple(sorted(set(group.syscalls) - profile.denied)))
        for group in profile.groups
    ]
    rules = [
        Row("conditional", rule.name, rule.reason, rule.syscalls, rule.summary)
        for rule in profile.rules
        if not profile.denied.issuperset(rule.syscalls)
    ]
    rows = [row for row in groups if row.verdict == Verdict.ALLOW.name and row.syscalls] + rules
    rows += [row for row in groups if row.verdict != Verdict.ALLOW.name]
    if profile.denied:
        rows.append(Row(Verdict.EPERM.name, "policy", "denied by the policy", tuple(sorted(profile.denied))))
    return rows


def markdown(profile: Profile) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| verdict | group | why | system calls | condition |", "|---|---|---|---|---|"]
    for row in describe(profile):
        calls = " ".join(f"`{name}`" for name in row.syscalls)
        verdict = "allowed" if row.verdict == Verdict.ALLOW.name else row.verdict
        lines.append(f"| {verdict} | {row.name} | {row.reason} | {calls} | {row.condition} |")
    return "\n".join(lines)

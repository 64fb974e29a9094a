"""The card as plain text for people."""

from __future__ import annotations

import textwrap
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from jubako._lib.levels import Enforcement
from jubako._lib.text import printable
from jubako._lib.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jubako.boundary.card import Card, CardControl, CardProbes

__all__ = ["render_text"]

_MARKS: Final = MappingProxyType(
    {
        Enforcement.ENFORCED: ("✓", "32"),
        Enforcement.PARTIAL: ("~", "33"),
        Enforcement.UNENFORCED: ("✗", "31"),
    }
)
_GROUPS: Final = MappingProxyType(
    {
        "fs": "Files",
        "net": "Network",
        "syscall": "System calls",
        "process": "Processes",
        "resource": "Resources",
        "time": "Time",
        "tool": "Host functions",
        "observe": "Observation",
        "secret": "Secrets",
        "data": "Data",
    }
)
_NARROWEST: Final = 40
_LABEL: Final = 14


def render_text(card: Card, width: int = 100, *, color: bool = False) -> str:
    """Return the card as text of ``width`` columns (40 at least), with ANSI colours if asked for."""
    page = _Page(max(width, _NARROWEST), color=color)
    page.answers(card)
    for prefix, controls in groupby(card.controls, key=lambda item: item.id.partition(".")[0]):
        page.heading(_GROUPS.get(prefix, prefix))
        for control in controls:
            page.control(control)
    page.verdict(card)
    return "\n".join(page.lines) + "\n"


class _Page:
    """Collects lines; all foreign text goes through ``printable``."""

    def __init__(self, width: int, *, color: bool) -> None:
        self.width = width
        self.color = color
        self.lines: list[str] = []

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def wrapped(self, text: str, first: str, rest: str) -> Iterator[str]:
        """Yield the lines of ``text``, after ``first`` on the first and ``rest`` on the others."""
        lines = textwrap.wrap(printable(text), self.width - max(len(first), len(rest)), break_on_hyphens=False) or [""]
        yield f"{first}{lines[0]}".rstrip()
        yield from (f"{rest}{line}" for line in lines[1:])

    def heading(self, text: str) -> None:
        self.lines += ["", self.paint(text, "1")]

    def pair(self, label: str, text: str) -> None:
        label = printable(label, _LABEL - 1)
        self.lines += self.wrapped(text, f"  {label:<{_LABEL}}", " " * (_LABEL + 2))

    def pairs(self, label: str, texts: Iterable[str]) -> None:
        for number, text in enumerate(texts):
            self.pair("" if number else label, text)

    def answers(self, card: Card) -> None:
        boundary, lifecycle = card.boundary, card.lifecycle
        self.lines.append(self.paint("Boundary", "1"))
        self.pair("kind", f"{boundary.kind} by {boundary.driver} {boundary.version or '(no version)'}")
        self.pairs("still shared", boundary.shared)
        self.heading("Policy")
        for label, texts in groupby(card.policy.summary, key=lambda item: item.label):
            self.pairs(label, (item.value for item in texts))
        self.pairs("accepted", (f"{item.subject} ({item.reason})" for item in card.policy.relaxations))
        self.heading("Lifecycle")
        self.pair("ends", f"after {format_seconds(lifecycle.ttl)} at the latest")
        self.pairs("left behind", lifecycle.left)

    def control(self, item: CardControl) -> None:
        mark, code = _MARKS[item.level]
        head = f"  {mark} {item.level.value:<10}  "
        indent = " " * len(head)
        first = self.paint(head, code)
        by = f", by {item.mechanism}" if item.mechanism not in {"", "none"} else ""
        title, *more = self.wrapped(f"{item.title} [{item.id}]{by}", "", indent)
        self.lines += (first + title, *more)
        if item.reason:
            self.lines += self.wrapped(f"because {item.reason}", indent, indent + "  ")
        if item.remedy and item.level is not Enforcement.ENFORCED:
            self.lines += self.wrapped(f"mend: {item.remedy}", indent, indent + "  ")
        if item.probe:
            self.lines.append(indent + self.paint(f"probes: {item.probe}", "31" if item.probe == "escaped" else "2"))
        if item.verdict == "refused":
            why = "a probe escaped" if item.probe == "escaped" else f"the policy requires {item.required.value}"
            self.lines.append(indent + self.paint(f"REFUSED: {why}", "1;31"))

    def verdict(self, card: Card) -> None:
        self.lines.append("")
        if card.probes is not None:
            self.probes(card.probes)
        refused = card.refusals
        if refused:
            text = (
                f"Refused: {len(refused)} required control(s) would not hold: {', '.join(item.id for item in refused)}"
            )
            self.lines += (self.paint(line, "1;31") for line in self.wrapped(text, "", ""))
        else:
            self.lines.append(self.paint("Every required control holds.", "1;32"))
        self.lines.append(f"card {card.digest}")

    def probes(self, probes: CardProbes) -> None:
        total = probes.total()
        text = (
            f"Containment probes of {probes.at:%Y-%m-%d %H:%M} UTC: {total.contained} contained,"
            f" {total.escaped} escaped, {total.inconclusive} inconclusive"
        )
        self.lines += self.wrapped(text, "", "")

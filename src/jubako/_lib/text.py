"""Foreign text made harmless for terminals and messages."""

from __future__ import annotations

__all__ = ["printable"]


def _escape(character: str) -> str:
    code = ord(character)
    named = {9: "\\t", 10: "\\n", 13: "\\r", 27: "\\e"}.get(code)
    if named is not None:
        return named
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str | bytes, limit: int = 4096, *, keep: str = "") -> str:
    r"""Return ``text`` with nothing in it that a terminal would obey, at most ``limit`` characters.

    Control characters, escape sequences, bidirectional overrides, invisible and unassigned
    characters come out as escapes such as ``\x1b``; a backslash stays as it is. Characters in
    ``keep`` (think ``"\n\t"``) pass. A cut shows as an ellipsis.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    head = text[: limit + 1]
    if not head.isprintable():
        head = "".join(item if item.isprintable() or item in keep else _escape(item) for item in head)
    if len(head) <= limit and len(text) <= limit:
        return head
    return head[: max(limit - 1, 0)] + "…"[:limit]

"""The one function that makes hostile text safe for logs, screens and error messages.

Not here: HTML escaping (the API sends JSON and plain text) and shell quoting.
"""

from __future__ import annotations

import unicodedata

DEFAULT_LIMIT = 2_000
"""Characters; enough for the end of a traceback, too little to flood a log."""

# Cc: ANSI escapes, NUL, backspace, CR. Cf: bidi overrides, zero width, tags. Cs: lone surrogates, which crash
# whoever encodes UTF-8 later. Zl, Zp: line breaks that `splitlines` and browsers honour. Cn, Co: no meaning.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"})
_JOINERS = frozenset("\u200c\u200d")  # harmless, and Persian words and emoji fall apart without them


def safe_text(text: str, limit: int = DEFAULT_LIMIT, *, newlines: bool = False) -> str:
    """`text` with control, bidi and invisible characters written as escapes, cut to `limit` characters.

    The cut is announced in the result (so it may be a few characters longer than `limit`). Newlines and tabs
    stay only when asked for: a log line or a one-line error must not be split by whoever is quoted in it.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text  # every character is from " " to "~": nearly all names are
    # Slice first: escaping ten megabytes to show two thousand characters would be the attack.
    out: list[str] = []
    length = 0
    taken = 0
    for char in text[:limit]:
        piece = _shown(char, newlines)
        if length + len(piece) > limit:
            break
        out.append(piece)
        length += len(piece)
        taken += 1
    if taken < len(text):
        out.append(f"... ({len(text) - taken} more characters)")
    return "".join(out)


def _shown(char: str, newlines: bool) -> str:
    if " " <= char <= "~":
        return char
    if newlines and char in "\n\t":
        return char
    if char in _JOINERS or unicodedata.category(char) not in _ESCAPED:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")

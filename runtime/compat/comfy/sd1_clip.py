"""``comfy.sd1_clip``: the weights in a prompt's text, which packs read without any model; the encoders are names."""

from __future__ import annotations

from .._standins import names_only

__getattr__ = names_only(
    __name__,
    [
        "ClipTokenWeightEncoder",
        "SD1CheckpointClipModel",
        "SD1ClipModel",
        "SD1Tokenizer",
        "SDClipModel",
        "SDTokenizer",
        "bundled_embed",
        "expand_directory_list",
        "gen_empty_tokens",
        "load_embed",
        "model_options_long_clip",
        "parse_parentheses",
        "safe_load_embed_zip",
    ],
)

#: What an escaped parenthesis becomes while weights are read, so that it opens and closes nothing.
_ESCAPES = {"\\)": "\0\1", "\\(": "\0\2"}
_EMPHASIS = 1.1


def escape_important(text: str) -> str:
    """Put escaped parentheses out of the way."""
    for written, kept in _ESCAPES.items():
        text = text.replace(written, kept)
    return text


def unescape_important(text: str) -> str:
    """Bring back what ``escape_important`` put away, as plain parentheses."""
    for written, kept in _ESCAPES.items():
        text = text.replace(kept, written[1])
    return text


def token_weights(string: str, current_weight: float) -> list[tuple[str, float]]:
    """Cut a text into parts of one weight: ``(a)`` weighs 1.1 times as much, ``(a:0.5)`` weighs 0.5."""
    found: list[tuple[str, float]] = []
    for part in _parts(string):
        if len(part) < 2 or not (part.startswith("(") and part.endswith(")")):
            found.append((part, current_weight))
            continue
        inner, weight = part[1:-1], current_weight * _EMPHASIS
        text, colon, figure = inner.rpartition(":")
        if colon and text:
            try:
                weight, inner = float(figure), text
            except ValueError:
                pass
        found += token_weights(inner, weight)
    return found


def _parts(string: str) -> list[str]:
    """The text outside of parentheses, and each outermost pair with what is in it, in order."""
    parts: list[str] = []
    start, depth = 0, 0
    for position, character in enumerate(string):
        if character == "(":
            if depth == 0 and position > start:
                parts.append(string[start:position])
                start = position
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                parts.append(string[start : position + 1])
                start = position + 1
    return [*parts, string[start:]] if start < len(string) else parts

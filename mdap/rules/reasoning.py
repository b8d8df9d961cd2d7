"""Separate a model's reasoning from its reply when a server sends both as one text."""

import re
from typing import Final

__all__ = ["split_reasoning"]

_WORD: Final = r"(?:\w+[:_])?(?:think(?:ing)?|thoughts?|reasoning)"
# <think>, <seed:think>, <|START_THINKING|>, <|begin_of_thought|>, [THINK], ◁think▷
_OPEN: Final = re.compile(
    rf"\s*(?:<(?!\|?/|\|?end_)\|?{_WORD}(?:\s[^<>]*)?\|?>|\[{_WORD}\]|◁{_WORD}▷)", re.IGNORECASE
)
_CLOSE: Final = re.compile(rf"<\|?(?:/|end_(?:of_)?){_WORD}\s*\|?>|\[/{_WORD}\]|◁/{_WORD}▷", re.IGNORECASE)
# OpenAI's harmony format, as a server sends it that does not take it apart.
_CHANNELS: Final = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
_FINAL: Final = "<|channel|>final<|message|>"
_HARMONY_END: Final = re.compile(r"<\|(?:return|end)\|>\s*$")


def split_reasoning(text: str) -> tuple[str, str | None]:
    """Return the reply in *text*, and the reasoning before it; None for none.

    Reasoning stands between tags at the beginning. A chat template may have opened it in the prompt: then
    only its end shows, on a line's edge, where no JSON string can have it. Reasoning without an end leaves
    no reply.
    """
    if _CHANNELS.match(text):
        reasoning, _, reply = text.rpartition(_FINAL)
        return (_HARMONY_END.sub("", reply), reasoning.strip() or None) if reasoning else ("", text)
    thoughts: list[str] = []
    while opened := _OPEN.match(text):
        closed = _CLOSE.search(text, opened.end())
        thoughts.append(text[opened.end() : closed.start() if closed else len(text)])
        text = text[closed.end() :].lstrip() if closed else ""
    if not thoughts and (closed := _CLOSE.search(text)) and _at_edge(text, closed):
        thoughts.append(text[: closed.start()])
        text = text[closed.end() :].lstrip()
    return text, "\n".join(filter(None, map(str.strip, thoughts))) or None


def _at_edge(text: str, tag: re.Match[str]) -> bool:
    """Return whether *tag* begins or ends a line."""
    before, after = text[: tag.start()].rstrip(" \t"), text[tag.end() :].lstrip(" \t")
    return not before or not after or before[-1] in "\r\n" or after[0] in "\r\n"

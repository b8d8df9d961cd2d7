"""Differences between real servers of one protocol: accepted fields and response details."""

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mdap.testing.faults import Canned
from mdap.testing.shapes import error_of

_LIMITS: Final = ("max_completion_tokens", "max_tokens")


class Manners(BaseModel):
    """What a `FaultyServer` takes of a request, and how it answers; the defaults are OpenAI's.

    Attributes:
        formats: the types of ``response_format`` that it takes.
        limits: what it calls its limit of output tokens; any other name is refused.
        ignores: names of that limit that it takes and does nothing about.
        temperatures: ``any``, ``default`` for 1 alone, or ``none``.
        system_role: whether it takes a system message.
        refuses: further fields that it refuses, such as ``seed``, in messages too.
        status: of its refusals.
        names_it: whether a refusal says what it refuses.
        parts: whether a reply's content is a list of parts.
        slots: requests that it works at side by side, the others waiting; None for any number.
        cuts: whether it cuts a reply at the limit of output tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    formats: tuple[str, ...] = ("json_schema", "json_object", "text")
    limits: tuple[str, ...] = _LIMITS
    ignores: tuple[str, ...] = ()
    temperatures: Literal["any", "default", "none"] = "any"
    system_role: bool = True
    refuses: tuple[str, ...] = ()
    status: int = Field(400, ge=200, le=599)
    names_it: bool = True
    parts: bool = False
    slots: int | None = Field(None, ge=1)
    cuts: bool = False

    def refusal(self, body: dict[str, Any]) -> Canned | None:
        """Return the refusal of a request, with the first thing in it that is not taken.

        Args:
            body: the request.

        Returns:
            None if all of it is taken.
        """
        message = self._mistake(body)
        if message is None:
            return None
        return error_of(self.status, "invalid_request_error", message if self.names_it else "Bad request")

    def _mistake(self, body: dict[str, Any]) -> str | None:
        kind = (body.get("response_format") or {"type": "text"}).get("type")
        if kind not in self.formats:
            return f"response_format of type '{kind}' is not available"
        if kind == "json_object" and "json" not in str(body["messages"]).lower():
            return "'messages' must contain the word 'json' for a response_format of type 'json_object'"
        for name in _LIMITS:
            if name in body and name not in (*self.limits, *self.ignores):
                return f"Unsupported parameter: '{name}'"
        temperature = body.get("temperature")
        limited = self.temperatures == "none" or (self.temperatures == "default" and temperature != 1)
        if temperature is not None and limited:
            return f"Unsupported value: 'temperature' does not support {temperature} with this model"
        roles = ["system" if "system" in body else "", *(each.get("role") for each in body["messages"])]
        if not self.system_role and "system" in roles:
            return "System role not supported"
        inner = json.dumps([body.get("system"), body["messages"]])
        return next(
            (f"Unknown field: '{name}'" for name in self.refuses if name in body or f'"{name}":' in inner),
            None,
        )

    def cut(self, body: dict[str, Any], texts: list[str]) -> tuple[list[str], list[bool]]:
        """Return the replies as far as their limit of tokens reaches, and which of them are cut there.

        Args:
            body: the request, whose limit it is.
            texts: the replies.
        """
        names = [name for name in self.limits if name in body and name not in self.ignores]
        if not (self.cuts and names):
            return texts, [False] * len(texts)
        most = 4 * (body[names[0]] - 1)
        return [text[:most] for text in texts], [len(text) > most for text in texts]

    def put_on(self, completion: dict[str, Any], *, cut: list[bool]) -> None:
        """Change *completion* to what this server makes of it.

        Args:
            completion: a response of the Chat Completions API.
            cut: which of its replies were cut at the limit of tokens.
        """
        for choice, short in zip(completion.get("choices", ()), cut, strict=False):
            message = choice["message"]
            if self.parts and message["content"] is not None:
                message["content"] = [{"type": "text", "text": message["content"]}]
            if short:
                choice["finish_reason"] = "length"

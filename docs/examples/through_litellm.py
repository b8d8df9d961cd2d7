"""A provider that asks through LiteLLM, whichever vendor it is."""

from collections.abc import Sequence
from typing import Any

import litellm
import openai

import mdap
from mdap.errors import RateLimitError, RejectedError, TransientError, UnavailableError

litellm.suppress_debug_info = True


class ThroughLiteLLM:
    nonblocking = False
    remote = True
    max_n = 1

    def __init__(self, model: str) -> None:
        self.name = f"litellm/{model}"
        self._model = model

    async def sample(self, request: mdap.SampleRequest) -> Sequence[mdap.Reply]:
        messages = [{"role": "system", "content": request.system}] if request.system else []
        messages.append({"role": "user", "content": request.user})
        try:
            answer = await litellm.acompletion(
                model=self._model,
                messages=messages,
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                num_retries=0,
                caching=False,
            )
        except litellm.RateLimitError as error:
            raise RateLimitError(f"{self.name} asks for a pause") from error
        except (litellm.AuthenticationError, litellm.NotFoundError) as error:
            raise UnavailableError(f"{self.name} refuses the key or knows no such model") from error
        except litellm.BadRequestError as error:
            raise RejectedError(f"{self.name} refuses this prompt") from error
        except openai.APIError as error:  # the root of all that LiteLLM raises
            raise TransientError(f"{self.name} failed: {type(error).__name__}") from error
        [choice] = answer.choices
        return [
            mdap.Reply(
                text=choice.message.content or "",
                model=self.name,
                finish_reason=choice.finish_reason or "stop",
                input_tokens=answer.usage.prompt_tokens,
                output_tokens=answer.usage.completion_tokens,
                request_id=answer.id,
            )
        ]

    def describe(self) -> dict[str, Any]:
        return {"model": self._model}

    async def aclose(self) -> None:
        pass


def create(model: str, options: dict[str, Any]) -> ThroughLiteLLM:
    return ThroughLiteLLM(model)

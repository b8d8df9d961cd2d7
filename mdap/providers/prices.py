"""Prices of models: the user's file first, then the price list of `genai-prices`, else unknown."""

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mdap.errors import UsageError
from mdap.settings import Price, explain

# Some prices rise with the length of a prompt: mdap's are short.
_TOKENS = 1_000
_TIMES = 1_000


def read_prices(path: Path) -> dict[str, Price]:
    """Return the prices in a JSON file: an object of model names and their prices.

    Args:
        path: a file such as ``{"openai/gpt-4.1-mini": {"input": 0.4, "output": 1.6}}``, in USD per
            million tokens.

    Raises:
        UsageError: the file is missing or not of that form.
    """
    try:
        found = json.loads(path.read_bytes())  # in bytes, a byte order mark is no part of it
    except OSError as error:
        raise UsageError(f"the price file {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"the price file {path} is not JSON") from None
    try:
        return TypeAdapter(dict[str, Price]).validate_python(found)
    except ValidationError as error:
        raise UsageError(f"the price file {path}: {explain('price', error)}") from None


def price_of(model: str, own: Mapping[str, Price]) -> Price | None:
    """Return the price of *model*, a ``provider/model``: the user's *own* first; None if nobody knows it."""
    if model in own:
        return own[model]
    from genai_prices import Usage, calc_price  # a quarter of a second that most commands need not wait

    provider, _, name = model.partition("/")

    def per_million(usage: Any) -> float:
        return float(_TIMES * Decimal(calc_price(usage, model_ref=name, provider_id=provider).total_price))

    try:
        return Price(
            input=per_million(Usage(input_tokens=_TOKENS)),
            output=per_million(Usage(output_tokens=_TOKENS)),
            cached_input=per_million(Usage(input_tokens=_TOKENS, cache_read_tokens=_TOKENS)),
            cache_write=per_million(Usage(input_tokens=_TOKENS, cache_write_tokens=_TOKENS)),
        )
    except (LookupError, ValueError):
        return None

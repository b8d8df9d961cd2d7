"""What refusals of real servers are about, going by their words."""

import pytest

from mdap.providers.dialect import options_named

SAID = {
    "This response_format type is unavailable now": ["json_schema"],
    "'response_format.type' must be 'json_schema' or 'text'": ["json_schema"],
    "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model": [
        "json_schema"
    ],
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
    "instead.": ["token_parameter"],
    '{"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "msg": "Extra inputs '
    'are not permitted", "input": 750}]}': ["token_parameter"],
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
    "supported.": ["send_temperature"],
    "`temperature` may only be set to 1 when thinking is enabled": ["send_temperature"],
    "System role not supported": ["system_role"],
    "Developer instruction is not enabled for models/gemma-3-27b-it": ["system_role"],
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.": ["system_role"],
    "Only user, assistant and tool roles are supported, got system.": ["system_role"],
    "Conversation roles must alternate user/assistant/user/assistant/...": ["system_role"],
    "system: Extra inputs are not permitted": ["system_role"],
    "'n' : number must be at most 1": ["n"],
    "temperature and max_tokens are not supported": ["token_parameter", "send_temperature"],
    # And what is about none of them.
    "API key not valid. Please pass a valid API key.": [],
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the "
    "messages, 1000 in the completion). Please reduce max_tokens.": [],
    "Could not finish the message because max_tokens or model output limit was reached. Please try again "
    "with higher max_tokens.": [],
    "max_tokens is too large: 100000": [],
    "The response was filtered due to the prompt triggering the content management policy": [],
    "the system is overloaded": [],
}


@pytest.mark.parametrize("said", SAID)
def test_a_refusal_is_read_for_what_it_refuses(said: str) -> None:
    """The options that could help are known from servers' own words, and no others."""
    assert options_named(said) == SAID[said]

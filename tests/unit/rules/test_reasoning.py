"""What a model thought is told from what it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdap.rules.reading import split_reasoning

TAGS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINK>", "</THINK>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ('<think time="3">', "</think >"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|think|>", "<|/think|>"),
]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_a_block_before_the_reply(opening: str, closing: str) -> None:
    """Whatever the tags; it may come twice, be empty, or have no beginning or no end."""
    assert split_reasoning(f"{opening}\na < b\n{closing}\n\n4") == ("4", "a < b")
    assert split_reasoning(f"\n{opening}a{closing}{opening}b{closing} 4\n") == ("4\n", "a\nb")
    assert split_reasoning(f"{opening}\n\n{closing}\n\n4") == ("4", None)
    assert split_reasoning(f"a\nb\n{closing}\n4") == ("4", "a\nb")
    assert split_reasoning(f"{opening}a, and then 4") == ("", "a, and then 4")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "4",
        " 4\n",
        '{"quote": "<think>a</think>"}',
        '{"quote": "so he </think> said"}',
        "I <think> so",
        "<answer>4</answer>",
        "<thinker>4</thinker>",
        "<b>4</b>",
        "[1, 0, 2]",
        "```json\n{}\n```",
        "<reason>4</reason>",
    ],
)
def test_a_reply_without_reasoning_stays_as_it_came(reply: str) -> None:
    """Words within it, quoted tags among them, are the reply's."""
    assert split_reasoning(reply) == (reply, None)


def test_channels() -> None:
    """What a server sends that does not take OpenAI's format apart."""
    whole = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>"

    assert split_reasoning(whole)[0] == "4"
    assert "hm" in (split_reasoning(whole)[1] or "")
    assert split_reasoning("<|channel|>analysis<|message|>hm") == ("", "<|channel|>analysis<|message|>hm")


@given(st.text(alphabet='<>/think▷◁[]|{}"\n a_:', max_size=60))
def test_no_reply_is_made_up(text: str) -> None:
    """Whatever comes, the reply is its end, and splitting it again changes nothing that has no tags."""
    reply, reasoning = split_reasoning(text)

    assert text.endswith(reply)
    assert reasoning is None or reasoning.strip()

"""Schemas as people have them: references of every kind, recursion, and what is refused beforehand."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import mdap
from mdap.testing import check_task
from mdap_extract import Extract
from mdap_extract.documents import Document
from mdap_extract.forms import Forms
from mdap_extract.reading import Asking
from mdap_extract.schema import fields_of, read_schema

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
CITY: dict[str, Any] = {"type": "object", "properties": {"city": TEXT, "code": {"type": "number"}}}
TREE: dict[str, Any] = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"name": TEXT, "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["name", "children"],
        }
    },
}


def accepted(schema: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return the forms of a record's fields."""
    fields = {field.name: field for field in fields_of(read_schema(schema))}
    return {name: Forms().value(fields[name], raw).form for name, raw in record.items()}


@pytest.mark.parametrize(
    ("schema", "record", "forms"),
    [
        (
            {"properties": {"a": CITY, "b": {"$ref": "#/properties/a", "description": "the other"}}},
            {"a": {"city": "Kiel", "code": "1"}, "b": {"city": "Bonn", "code": "2.0"}},
            {"a": {"city": "Kiel", "code": 1}, "b": {"city": "Bonn", "code": 2}},
        ),
        (
            {"properties": {"a": {"$ref": "#/properties/b/properties/city"}, "b": CITY}},
            {"a": "x"},
            {"a": "x"},
        ),
        (
            {
                "properties": {"a": {"$ref": "#/components/schemas/A%20b~1c~0"}},
                "components": {"schemas": {"A b/c~": {"type": "number"}}},
            },
            {"a": "1.0"},
            {"a": 1},
        ),
        (
            {"properties": {"n": TEXT, "c": {"type": "array", "items": {"$ref": "#"}}}},
            {"n": "x", "c": [{"n": " y", "c": []}]},
            {"n": "x", "c": [{"n": "y", "c": []}]},
        ),
        (
            {"properties": {"a": {"$ref": "#money"}}, "$defs": {"x": {"$anchor": "money", "type": "number"}}},
            {"a": "1"},
            {"a": 1},
        ),
        (
            {"properties": {"a": {"$dynamicRef": "#m"}}, "$defs": {"x": {"$dynamicAnchor": "m", **NUMBER}}},
            {"a": "1"},
            {"a": 1},
        ),
        (
            {
                "$id": "https://example.com/root.json",
                "properties": {"a": {"$ref": "item.json"}, "b": {"$ref": "item.json#/$defs/in"}},
                "$defs": {
                    "in": TEXT,
                    "q": {
                        "$id": "item.json",
                        "properties": {"z": {"$ref": "#/$defs/in"}},
                        "$defs": {"in": {"type": "integer"}},
                    },
                },
            },
            {"a": {"z": "7"}, "b": "8"},
            {"a": {"z": 7}, "b": 8},
        ),
        (
            {"properties": {"a": {"$ref": "#/definitions/X"}}, "definitions": {"X": {"type": "number"}}},
            {"a": "1"},
            {"a": 1},
        ),
        (
            {
                "allOf": [{"$ref": "#/$defs/B"}, {"properties": {"y": {"type": "number"}}}],
                "$defs": {"B": {"properties": {"x": TEXT}, "required": ["x"]}},
            },
            {"x": "1", "y": "2"},
            {"x": "1", "y": 2},
        ),
        (TREE, {"name": "a", "children": [{"name": "b", "children": []}]}, {
            "name": "a", "children": [{"name": "b", "children": []}]
        }),
        ({"properties": {"a": True, "b": TEXT}}, {"a": 1.0, "b": "x"}, {"a": 1, "b": "x"}),
        (
            {"properties": {"$ref": TEXT, "e": {"enum": [{"$ref": "#/no"}]}}},
            {"$ref": "x", "e": {"$ref": "#/no"}},
            {"$ref": "x", "e": {"$ref": "#/no"}},
        ),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
def test_a_reference_within_the_schema_is_followed(schema: Any, record: Any, forms: Any) -> None:
    """Of every kind; and what a model and an endpoint see is complete in itself."""
    assert accepted(schema, record) == forms
    fields = fields_of(read_schema(schema))
    step = Asking(Forms(), False, "", 1).step(Document("d", "x"), fields, "d/record")
    assert read_schema(step.schema)  # no reference leads out of it
    for field in fields:
        assert f'- "{field.name}": {json.dumps(field.schema)}' in step.user
        own = {word: part for word, part in field.schema.items() if word != "$defs"}
        assert read_schema({"properties": {"f": own}, "$defs": field.definitions})


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/nope"}}}, "'#/\\$defs/nope', which is not there"),
        ({"properties": {"a": {"$ref": "#nope"}}}, "not there"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "only references within the schema"),
        ({"properties": {"a": {"items": {"$ref": "https://example.com/a.json"}}}}, "only references within"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "defined by itself alone"),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/L"}},
                "$defs": {"L": {"anyOf": [TEXT, {"$ref": "#/$defs/L"}]}},
            },
            "'L' is defined by itself alone",
        ),
        ({"properties": {"a": {"$ref": "#/required/0"}}, "required": ["a"]}, "which is no schema"),
        (
            {"properties": {"a": {"$ref": "#/components/x"}}, "components": {"x": {"type": "strin"}}},
            "no JSON Schema",
        ),
        ({"properties": {"a": {"type": "string", "pattern": "^\\p{Lu}"}}}, "no JSON Schema"),
        ({"properties": {"a": False}, "required": ["a"]}, "'a' is required, and may not be there"),
        ({"anyOf": [{"properties": {"a": TEXT}}, {"properties": {"b": TEXT}}]}, '"properties" at the top'),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_schema_that_cannot_be_followed_is_refused_beforehand(schema: Any, why: str) -> None:
    """With one sentence, and before anything is paid for."""
    with pytest.raises(ValueError, match=why):
        read_schema(schema)


def test_a_schema_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    """As a value and as a file."""
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n', "utf-8")
    (tmp_path / "s.json").write_text('{"properties": {"a": ' + '{"items": ' * 50_000, "utf-8")
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"items": deep}
    for schema in ({"properties": {"a": deep}}, str(tmp_path / "s.json")):
        with pytest.raises(ValidationError, match=r"nested too deep|is no JSON"):
            Extract(input=str(tmp_path / "d.jsonl"), schema=schema)


def test_a_recursive_model_of_pydantic_can_be_used(tmp_path: Path) -> None:
    """From the schema to the record, with all that the engine relies on."""
    (tmp_path / "m.py").write_text(
        "from __future__ import annotations\nfrom decimal import Decimal\nfrom pydantic import BaseModel\n\n"
        "class Node(BaseModel):\n    name: str\n    price: Decimal\n    children: list[Node] = []\n",
        "utf-8",
    )
    gold = {"name": "a", "price": 1.5, "children": [{"name": "b", "price": "2.50", "children": []}]}
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "a tree", "gold": gold}) + "\n", "utf-8")
    task = Extract(input=str(tmp_path / "d.jsonl"), schema=f"{tmp_path}/m.py:Node", truth="gold")
    check_task(task, texts=20)
    result = mdap.solve_sync(task, db=tmp_path / "a.db").result
    assert result["accuracy"] == 1
    [line] = Path(result["output"]).read_text("utf-8").splitlines()
    assert json.loads(line)["record"]["children"] == [{"name": "b", "price": 2.5, "children": []}]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "nullable": True}, [None, "x"], [1]),
        ({"enum": ["a"], "nullable": True}, [None, "A"], ["b"]),
        ({"$ref": "#/$defs/D", "nullable": True, "description": "when"}, [None, "2026-11-25"], ["x"]),
        ({"type": "array", "items": {"type": "number", "nullable": True}}, [[None, 1]], [None]),
        ({"type": "number", "nullable": False}, [1], [None]),
    ],
)
def test_nullable_means_that_null_is_a_value(schema: Any, good: list[Any], bad: list[Any]) -> None:
    """As in OpenAPI, also where a field is required."""
    whole = {"properties": {"f": schema}, "required": ["f"], "$defs": {"D": {"format": "date"}}}
    for raw in good:
        accepted(whole, {"f": raw})
    for raw in bad:
        with pytest.raises(mdap.RedFlag):
            accepted(whole, {"f": raw})


def test_half_a_character_in_a_schema_is_no_end() -> None:
    """It is shown as what it is, and asked for nevertheless."""
    [field] = fields_of(read_schema({"properties": {"a": {"description": "cut \ud83d", "type": "string"}}}))
    assert field.schema["description"] == "cut \ufffd"


def test_a_reply_nested_in_alternatives_is_read_in_bounded_time() -> None:
    """Not in as many ways as two to the power of its depth."""
    node = {"children": {"type": "array", "items": {"$ref": "#/$defs/T"}}}
    kinds = [{"properties": {**node, "kind": {"const": kind}}, "required": ["kind"]} for kind in "ab"]
    schema = {"properties": {"t": {"$ref": "#/$defs/T"}}, "$defs": {"T": {"oneOf": kinds}}}
    tree: dict[str, Any] = {"kind": "b", "children": []}
    for _ in range(24):
        tree = {"kind": "b", "children": [tree]}
    began = time.process_time()
    assert accepted(schema, {"t": tree}) == {"t": tree}
    assert time.process_time() - began < 30  # 16 million ways would take hours


def test_a_reply_that_is_nested_too_deep_is_a_red_flag() -> None:
    """It does not end the run."""
    tree: dict[str, Any] = {"name": "a", "children": []}
    for _ in range(400):
        tree = {"name": "a", "children": [tree]}
    with pytest.raises(mdap.RedFlag, match="nested too deep"):
        accepted(TREE, {"children": [tree]})

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shvit.errors import ModelFileError
from shvit.runtime.card import SCHEMA_VERSION, Card, ClassInfo, Metric, Preprocessing

text = st.text(max_size=12)
cards = st.builds(
    Card,
    name=text,
    architecture=text,
    classes=st.lists(st.tuples(text, st.none() | text), min_size=1, max_size=5).map(
        lambda each: tuple(ClassInfo(i, *rest) for i, rest in enumerate(each))
    ),
    preprocessing=st.builds(
        Preprocessing,
        image_size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
        crop_ratio=st.floats(0.01, 1),
        resize_mode=st.sampled_from(["crop", "squash"]),
        interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos"]),
    ),
    metrics=st.lists(st.builds(Metric, text, st.floats(0, 1), text, st.none() | text), max_size=2).map(tuple),
    parameters=st.none() | st.integers(0, 10**9),
    notes=st.none() | text,
)


@given(cards)
def test_round_trip(card):
    assert Card.from_json(card.to_json()) == card


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    card=cards,
    key=st.sampled_from(["name", "classes", "preprocessing", "metrics", "schema_version"]),
    value=json_values,
)
def test_whatever_stands_in_a_field_it_reads_or_is_refused_in_one_line(card, key, value):
    raw = json.loads(card.to_json()) | {key: value}
    try:
        Card.from_json(json.dumps(raw), source="file.onnx")
    except ModelFileError as error:
        assert str(error).startswith("file.onnx: ")
        assert "\n" not in str(error).replace(str(value), "")


@given(json_values)
def test_json_that_is_no_card_is_refused(value):
    with pytest.raises(ModelFileError, match=r"^file\.onnx: "):
        Card.from_json(json.dumps(value), source="file.onnx")


def changed(**changes: Any) -> str:
    card = Card("n", "shvit_s1", (ClassInfo(0, "cat"),), Preprocessing((8, 8)))
    return json.dumps(json.loads(card.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        (changed(schema_version=SCHEMA_VERSION + 1), "this shvit reads up to 1; update with: pip install"),
        (changed(task="detection"), r"card\.task: expected one of 'classification', got \"detection\""),
        (changed(classes=[]), r"card\.classes: expected at least one"),
        (changed(classes=[{"class_id": 3, "label": "cat"}]), "expected class_id 0 at place 0, got 3"),
        (changed(classes=[{"class_id": 0}]), r"card\.classes\[0\]\.label: missing"),
        (changed(preprocessing={"image_size": [8]}), r"image_size: expected 2 values, got 1"),
        (changed(preprocessing={"image_size": [0, 8]}), "expected positive height and width"),
        (changed(preprocessing={"crop_ratio": "big"}), r'crop_ratio: expected float, got "big"'),
        (changed(parameters=True), r"card\.parameters: expected int, got true"),
    ],
)
def test_a_wrong_card_is_refused_with_the_fields_path(text, expected):
    with pytest.raises(ModelFileError, match=expected):
        Card.from_json(text, source="file.onnx")


def test_unknown_keys_of_the_same_schema_are_ignored():
    assert Card.from_json(changed(favourite_colour="blue")).name == "n"

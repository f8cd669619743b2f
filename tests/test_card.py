from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shvit.card import (
    SCHEMA_VERSION,
    Card,
    ClassInfo,
    Decision,
    Metric,
    Preprocessing,
    Promise,
    Threshold,
    Unknown,
    Verification,
    short_labels,
)
from shvit.errors import ModelFileError

text = st.text(max_size=12)
shares = st.floats(0, 1)
promises = st.tuples(shares, shares, shares, shares, shares).map(
    lambda each: Promise(each[0], sorted(each[1:4])[1], min(each[1:4]), max(each[1:4]), each[4])
)
decisions = st.builds(
    Decision,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    data=text,
    images=st.integers(0, 10**6),
    temperature=st.floats(0.01, 100),
    calibration_error=st.none() | shares,
    calibration_error_before=st.none() | shares,
    min_score=st.none() | shares,
    promise=st.none() | promises,
    unknown=st.none()
    | st.builds(
        Unknown,
        method=text,
        limit=st.floats(allow_nan=False, allow_infinity=False),
        kept=shares,
        pictures=st.integers(0, 10**6),
        auroc=st.none() | shares,
        taken_for_known=st.none() | shares,
    ),
    created=st.none() | text,
)


def decided(card: Card, decision: Decision, score: float) -> Card:
    """The card with a decision, and a threshold for its last class."""
    last = card.classes[-1]
    return replace(card, decision=replace(decision, thresholds=(Threshold(last.class_id, last.label, score),)))


undecided_cards = st.builds(
    Card,
    name=text,
    architecture=text,
    classes=st.lists(st.tuples(text, st.none() | text), min_size=1, max_size=5).map(
        lambda each: tuple(ClassInfo(i, *rest) for i, rest in enumerate(each))
    ),
    preprocessing=st.builds(
        Preprocessing,
        image_size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
        crop_ratio=st.floats(0.1, 1),
        resize_mode=st.sampled_from(["crop", "squash", "pad"]),
        interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos"]),
    ),
    metrics=st.lists(st.builds(Metric, text, st.floats(0, 1), text, st.none() | text), max_size=2).map(tuple),
    parameters=st.none() | st.integers(0, 10**9),
    notes=st.none() | text,
    task=st.sampled_from(["classification", "multi_label"]),
)
cards = undecided_cards | st.builds(decided, undecided_cards, decisions, shares)

SHORT_LABELS = (
    # synonyms of WordNet: the first, without the spaces around it
    ([("jinrikisha, ricksha, rickshaw", "n03599486"), ("fly", "n02190166")], ["jinrikisha", "fly"]),
    ([(" ox ,cattle", "n02403003")], ["ox"]),
    # names that would be shared, as in ImageNet, stay whole
    ([("maillot", "n03710637"), ("maillot, tank suit", "n03710721")], ["maillot", "maillot, tank suit"]),
    ([("crane", "n02012849"), ("crane", "n03126707")], ["crane", "crane"]),
    ([("seal, a", "n00000001"), ("seal, b", "n00000002"), ("ox, c", "n00000003")], ["seal, a", "seal, b", "ox"]),
    ([("fly, insect", "n02190166"), ("fly", None)], ["fly, insect", "fly"]),
    # a comma of one's own
    ([("red, ripe", None), ("red, unripe", None)], ["red, ripe", "red, unripe"]),
    ([("red, ripe", "n123"), ("green, unripe", "n123456789"), ("x, y", "N01234567")],
     ["red, ripe", "green, unripe", "x, y"]),
    ([("red, ripe", "n01443537\n"), ("blue, sky", "n\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661")],
     ["red, ripe", "blue, sky"]),
    # nothing before the comma, or nothing at all
    ([(", x", "n01443537"), ("", "n01443538"), (",", None)], [", x", "", ","]),
    ([("constructor, toString", "n01443537"), ("__proto__, x", "n01443538")], ["constructor", "__proto__"]),
)  # fmt: skip
"""Labels with WordNet ids, and what people are shown; the page's script is tested by the same."""


@pytest.mark.parametrize(("named", "expected"), SHORT_LABELS)
def test_what_classes_are_called_where_people_read_it(named, expected):
    assert list(short_labels([ClassInfo(place, *each) for place, each in enumerate(named)])) == expected


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
    key=st.sampled_from(["name", "classes", "preprocessing", "metrics", "decision", "schema_version"]),
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
        (changed(schema_version=SCHEMA_VERSION + 1), "this shvit reads up to 2; use a newer shvit"),
        (changed(task="detection"), r"card\.task: expected one of 'classification', 'multi_label', got \"detection\""),
        (changed(classes=[]), r"card\.classes: expected at least one"),
        (changed(classes=[{"class_id": 3, "label": "cat"}]), "expected class_id 0 at place 0, got 3"),
        (changed(classes=[{"class_id": 0}]), r"card\.classes\[0\]\.label: missing"),
        (changed(preprocessing={"image_size": [8]}), r"image_size: expected 2 values, got 1"),
        (changed(preprocessing={"image_size": [0, 8]}), "expected a height and a width of 1 to 2048 pixels, got 0x8"),
        (changed(preprocessing={"crop_ratio": "big"}), r'crop_ratio: expected float, got "big"'),
        (changed(parameters=True), r"card\.parameters: expected int, got true"),
    ],
)
def test_a_wrong_card_is_refused_with_the_fields_path(text, expected):
    with pytest.raises(ModelFileError, match=expected):
        Card.from_json(text, source="file.onnx")


DECISION: dict[str, Any] = {"precision": "fp32", "data": "photos", "images": 90}
LIMIT = {"method": "m", "limit": 1.5, "kept": 0.95}
CAT = {"class_id": 0, "label": "cat", "score": 0.5}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"temperature": 0}, r"decision\.temperature: expected 0\.01 to 100, got 0\.0"),
        ({"temperature": 101}, r"decision\.temperature: expected 0\.01 to 100, got 101"),
        ({"temperature": None}, r"decision\.temperature: expected float, got null"),
        ({"precision": "fp8"}, r"decision\.precision: expected one of 'fp32', 'fp16', 'int8', got \"fp8\""),
        ({"images": -1}, r"decision\.images: expected 0 to"),
        ({"min_score": 1.1}, r"decision\.min_score: expected 0 to 1, got 1\.1"),
        ({"calibration_error": -0.1}, r"decision\.calibration_error: expected 0 to 1, got -0\.1"),
        ({"unknown": LIMIT | {"kept": 2}}, r"decision\.unknown\.kept: expected 0 to 1, got 2\.0"),
        ({"unknown": LIMIT | {"auroc": 1.01}}, r"decision\.unknown\.auroc: expected 0 to 1, got 1\.01"),
        ({"unknown": LIMIT | {"limit": 10**400}}, r"decision\.unknown\.limit: expected float, got 10{50}"),
        ({"unknown": {"method": "m", "kept": 1}}, r"decision\.unknown\.limit: missing"),
        ({"thresholds": [CAT, CAT]}, r"decision\.thresholds: expected one for a class, got several for one"),
        ({"thresholds": [CAT] * 200_000}, r"decision\.thresholds: expected one for a class, got several for one"),
        ({"thresholds": [CAT | {"score": 1.5}]}, r"decision\.thresholds\[0\]\.score: expected 0 to 1, got 1\.5"),
        (
            {"thresholds": [CAT | {"class_id": 1}]},
            r"thresholds\[0\]: is for class_id 1, there are 1 classes; calibrate",
        ),
        ({"thresholds": [CAT | {"class_id": -1}]}, r"thresholds\[0\]: is for class_id -1, there are 1 classes"),
        (
            {"thresholds": [CAT | {"label": "dog"}]},
            r'thresholds\[0\]: is for the class "dog", class 0 is "cat"; calibrate the file anew with: shvit calibrate',
        ),
        (
            {"promise": {"target_precision": 0.5, "precision": 0.5, "low": 0.6, "high": 0.7, "coverage": 1}},
            r"decision\.promise\.precision: expected 0\.6 to 0\.7, got 0\.5",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_decision_is_refused_by_name_and_left_out_where_it_is_fitted_anew(changes, expected):
    text = changed(decision=DECISION | changes)
    with pytest.raises(ModelFileError, match=expected) as caught:
        Card.from_json(text, source="file.onnx")
    assert len(str(caught.value)) < 300
    assert Card.from_json(text, with_decision=False) == Card.from_json(changed())


@pytest.mark.parametrize("value", ["NaN", "1e999"])
@pytest.mark.parametrize("place", ["temperature", "limit", "score"])
def test_what_is_no_number_decides_nothing(value, place):
    decision = DECISION | {"temperature": 1, "unknown": LIMIT, "thresholds": [CAT]}
    stands = {"temperature": 1, "limit": 1.5, "score": 0.5}[place]
    text = changed(decision=decision).replace(f'"{place}": {stands}', "HERE")
    assert "HERE" in text
    with pytest.raises(ModelFileError, match=r"^file\.onnx: "):
        Card.from_json(text.replace("HERE", f'"{place}": {value}'), source="file.onnx")
    for make in (
        lambda: Decision("fp32", "photos", 90, temperature=float(value)),
        lambda: Unknown("m", float(value), 0.95),
        lambda: Threshold(0, "cat", float(value)),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()


@pytest.mark.parametrize(
    ("fitted", "written", "fits"),
    [("fp32", "int8", False), ("int8", "fp32", False), ("int8", "fp16", False), ("int8", "int8", True),
     ("fp32", "fp16", True), ("fp16", "fp32", True)],
)  # fmt: skip
def test_a_decision_of_8_bits_is_for_8_bits(fitted, written, fits):
    text = changed(decision=DECISION | {"precision": fitted}, verification={"format": "onnx", "precision": written})
    if fits:
        assert Card.from_json(text).decision == Decision(fitted, "photos", 90)
        return
    with pytest.raises(ModelFileError, match=f"fitted on a file in {fitted}, this one is in {written}, whose scores"):
        Card.from_json(text)
    with pytest.raises(ValueError, match="calibrate the file anew with: shvit calibrate"):
        replace(
            Card.from_json(text, with_decision=False),
            decision=Decision(fitted, "photos", 90),
            verification=Verification("onnx", written),
        )


def test_unknown_keys_of_the_same_schema_are_ignored():
    assert Card.from_json(changed(favourite_colour="blue")).name == "n"


def with_raw(key: str, value: str) -> str:
    """A card in which this text stands where the key's value would."""
    return changed(**{key: "HERE"}).replace('"HERE"', value)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEEP, "the card is nested too deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "the card is nested too deep"),
        (with_raw("unknown", DEEP), "the card is nested too deep"),
        (with_raw("notes", "[" * 900 + "]" * 900), r"card\.notes: expected str, got a list of 1$"),
        (with_raw("parameters", "1" + "0" * 400), r"card\.parameters: expected 0 to 2\*\*63 - 1, got 10{56}\.\.\."),
        (with_raw("macs", "-1"), r"card\.macs: expected 0 to 2\*\*63 - 1, got -1"),
        (with_raw("parameters", "9" * 5000), "the card is not JSON: "),
        (with_raw("schema_version", "1" + "0" * 400), "this shvit reads up to 2"),
        (with_raw("schema_version", "true"), "no schema_version"),
        (with_raw("schema_version", "-1"), "no schema_version"),
        (with_raw("preprocessing", '{"crop_ratio": 1%s}' % ("0" * 400)), "crop_ratio: expected float, got 10"),
        (with_raw("preprocessing", '{"crop_ratio": NaN}'), "the card is not JSON: NaN is no number of JSON"),
        (with_raw("preprocessing", '{"crop_ratio": -Infinity}'), "the card is not JSON: -Infinity is no number"),
        (with_raw("preprocessing", '{"crop_ratio": 1e999}'), r"crop_ratio: expected 0\.1 to 1, got Infinity"),
        (with_raw("preprocessing", '{"crop_ratio": 0.003}'), r"crop_ratio: expected 0\.1 to 1, got 0\.003"),
        (with_raw("preprocessing", '{"crop_ratio": 1e-9}'), r"crop_ratio: expected 0\.1 to 1, got 1e-09"),
        (with_raw("preprocessing", '{"crop_ratio": false}'), "crop_ratio: expected float, got false"),
        (with_raw("preprocessing", '{"pad_color": [0, 0, 256]}'), "red, green and blue of 0 to 255, got 0, 0, 256"),
        (with_raw("preprocessing", '{"pad_color": [-1, 0, 0]}'), "red, green and blue of 0 to 255, got -1, 0, 0"),
        (with_raw("preprocessing", '{"pad_color": [0, 0]}'), "pad_color: expected 3 values, got 2"),
        (with_raw("preprocessing", '{"pad_color": [0, 0, 0.5]}'), r"pad_color\[2\]: expected int, got 0.5"),
        (with_raw("preprocessing", '{"resize_mode": "stretch"}'), "expected one of 'crop', 'squash', 'pad', got"),
        (with_raw("preprocessing", '{"image_size": [100000, 100000]}'), "1 to 2048 pixels, got 100000x100000"),
        (with_raw("preprocessing", '{"image_size": [8, 1%s]}' % ("0" * 400)), "1 to 2048 pixels, got 8x10"),
        (with_raw("preprocessing", '{"image_size": [8, -8]}'), "1 to 2048 pixels, got 8x-8"),
        (with_raw("name", r'"\ud800"'), r"card\.name: expected text, got half of a character: .\\ud800"),
        (with_raw("classes", r'[{"class_id": 0, "label": "a\udfff"}]'), r"card\.classes\[0\]\.label: expected text"),
        (
            changed(classes=[{"class_id": 0, "label": "a" * 1001}]),
            "label: expected at most 1,000 characters, got 1,001",
        ),
        (changed(notes="a" * 10_001), "notes: expected at most 10,000 characters"),
        (changed(metrics=[{"name": "top1", "value": 0.5, "dataset": "d"}] * 1001), "metrics: expected at most 1,000"),
        (with_raw("metrics", '[{"name": "top1", "value": 1e999, "dataset": "d"}]'), "value: expected a finite number"),
        (
            changed(classes=[{"class_id": i, "label": ""} for i in range(100_001)]),
            "classes: expected at most 100,000, got 100,001",
        ),
        (with_raw("unknown", '"' + "a" * 2**24 + '"'), "the card is longer than 16 MiB"),
        (with_raw("unknown", '"' + "é" * 2**23 + '"'), "the card is longer than 16 MiB"),
    ],
    ids=lambda value: value[:40],
)
def test_what_no_card_holds_is_refused_in_one_line(text, expected):
    with pytest.raises(ModelFileError, match=expected) as caught:
        Card.from_json(text, source="file.onnx")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_the_bounds_hold_for_cards_that_are_made_here_too():
    classes = (ClassInfo(0, "cat"),)
    with pytest.raises(ValueError, match="image_size: expected a height and a width of 1 to 2048 pixels, got 4096x8"):
        Preprocessing((4096, 8))
    with pytest.raises(ValueError, match=r"crop_ratio: expected 0\.1 to 1, got NaN"):
        Preprocessing((8, 8), float("nan"))
    with pytest.raises(ValueError, match="label: expected text, got half of a character"):
        ClassInfo(0, "\udc80")
    with pytest.raises(ValueError, match="parameters: expected 0 to"):
        Card("n", "shvit_s1", classes, Preprocessing(), parameters=2**63)
    with pytest.raises(ValueError, match="value: expected a finite number, got nan"):
        Metric("top1", float("nan"), "d")
    largest = Card("n" * 10_000, "a", classes, Preprocessing((2048, 1), 0.1), parameters=2**63 - 1)
    assert Card.from_json(largest.to_json()) == largest

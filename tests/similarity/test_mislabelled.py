"""Labels that look wrong."""

from __future__ import annotations

import numpy as np
import pytest

from shvit.embeddings.table import MADE
from shvit.errors import DataError
from shvit.similarity.mislabelled import compared_with, find_mislabelled, suspects

from .conftest import digest_of, made


def labelled(rng: np.random.Generator, each: int = 40) -> tuple[np.ndarray, list[str | None]]:
    middles = 3 * rng.standard_normal((3, 24))
    rows = np.concatenate([middle + rng.standard_normal((each, 24)) for middle in middles]).astype(np.float32)
    return rows, [name for name in ("ant", "bee", "cat") for _ in range(each)]


def test_finds_the_labels_that_were_changed(rng):
    rows, labels = labelled(rng)
    labels[3], labels[50] = "cat", "ant"
    found = find_mislabelled(made(rows, labels=labels))
    assert {(each.place, each.given, each.suggested) for each in found[:2]} == {(3, "cat", "ant"), (50, "ant", "bee")}
    assert all(each.given_score < each.suggested_score for each in found)
    assert [each.given_score for each in found] == sorted(each.given_score for each in found)


def test_a_copy_with_the_same_wrong_label_does_not_hide_it(rng):
    rows, labels = labelled(rng)
    rows = np.concatenate([rows, np.repeat(rows[:1], 8, axis=0)])
    digests = [digest_of(place) for place in range(120)] + [digest_of(0)] * 8
    labels = ["cat", *labels[1:], *["cat"] * 8]
    found = find_mislabelled(made(rows, labels=labels, sha256=digests))
    assert {0, *range(120, 128)} == {each.place for each in found if each.suggested == "ant"}


def test_pictures_without_a_label_and_classes_of_one_are_left_out(rng):
    rows, labels = labelled(rng)
    labels[0], labels[1] = None, "dog"
    labels[2] = "bee"
    found = find_mislabelled(made(rows, labels=labels))
    assert [each.place for each in found] == [2]


def test_views_of_a_picture_are_one_picture_and_all_are_learned_from(rng):
    rows, labels = labelled(rng)
    labels[3], labels[50] = "cat", "ant"
    both = np.repeat(rows, 2, axis=0)
    both[1::2] += 0.5 * rng.standard_normal(rows.shape).astype(np.float32)
    both = np.concatenate([both, 9 * rng.standard_normal((5, 24)).astype(np.float32)])
    views = ["centre", "flip"] * 120 + [MADE] * 5
    sources = [f"{place // 2}.jpg" for place in range(240)] + [f"made: {place}" for place in range(5)]
    twice = [label for label in labels for _ in range(2)] + [None] * 5
    found = find_mislabelled(made(both, labels=twice, sources=sources, views=views))
    assert {(each.place, each.given, each.suggested) for each in found[:2]} == {(3, "cat", "ant"), (50, "ant", "bee")}
    alone = find_mislabelled(made(rows, labels=labels))
    assert found[0].given_score != alone[0].given_score


@pytest.mark.parametrize(
    ("labels", "reason"),
    [(None, "have no labels"), (["a", "a", None], "at least two classes"), (["a", "b", "c"], "found 0")],
)
def test_refuses_what_cannot_be_judged(rng, labels, reason):
    with pytest.raises(DataError, match=reason):
        find_mislabelled(made(rng.standard_normal((3, 24)).astype(np.float32), labels=labels))


def test_confident_learning_by_hand():
    held_out = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55], [0.1, 0.9], [0.3, 0.7]])
    # On the mean pictures of class 0 have 0.5625 for it, those of class 1 0.8.
    assert suspects(held_out, np.array([0, 0, 0, 0, 1, 1])) == [(2, 1)]


def test_lays_the_most_similar_pictures_of_both_classes_beside(rng):
    rows, labels = labelled(rng)
    labels[3] = "cat"
    [suspect] = [each for each in find_mislabelled(made(rows, labels=labels)) if each.place == 3]
    given, suggested = compared_with(made(rows, labels=labels), suspect)
    assert [labels[place] for place in (*given, *suggested)] == ["cat"] * 3 + ["ant"] * 3

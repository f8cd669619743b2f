"""What a name on the hub is, and what is only nearly one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from shvit.errors import ArgumentError
from shvit.hub.names import MAIN, PUBLISHED, Reference, parse_reference
from shvit.network.variants import VARIANTS
from shvit.shipped import DEFAULT_MODEL


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("shvit_s1", "timm/shvit_s1.in1k", MAIN),
        ("shvit_s4@v1.0", "timm/shvit_s4.in1k", "v1.0"),
        ("hf://user/repo", "user/repo", MAIN),
        ("HF://user/repo.with-more_1@refs/pr/3", "user/repo.with-more_1", "refs/pr/3"),
        ("hf://user/repo@main", "user/repo", MAIN),
    ],
)
def test_names_and_addresses(text, repository, revision):
    found = parse_reference(text)
    assert (found.repository, found.revision) == (repository, revision)
    assert parse_reference(found.name) == found
    assert (found.published is not None) == text.startswith("shvit")


@pytest.mark.parametrize("text", [DEFAULT_MODEL, "m.onnx", "runs/best.safetensors", "", "@", "shvit_s9", "https://a/b"])
def test_paths_and_shipped_models_are_left_to_others(text):
    assert parse_reference(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s4", "did you mean shvit_s4?"),
        ("SHViT-S2@v1", "did you mean shvit_s2@v1?"),
        ("shvit_s4:int8:int8", "expected shvit_s4 or shvit_s4@revision"),
        ("shvit_s4:int8@main", "expected shvit_s4 or shvit_s4@revision"),
        ("shvit_s4:INT8", "one :int8 behind it"),
        ("shvit_s4\n", "expected shvit_s4 or shvit_s4@revision"),
        ("hf://repo", "expected hf://user/repository or hf://user/repository@revision"),
        ("hf://", "is no repository's name"),
        ("hf:///repo", "is no repository's name"),
        ("hf://user/repo/", "names more than a repository"),
        ("hf://user/repo/model.safetensors", "names more than a repository"),
        ("hf://user/re po", "is no repository's name"),
        ("hf://user/../../etc", "names more than a repository"),
        ("hf://user/..", "is no repository's name"),
        ("hf://datasets/user/repo", "datasets are not read this way"),
        ("hf://user/repo@", "is no revision"),
        ("shvit_s1@", "is no revision"),
        ("hf://user/repo@../../x", "is no revision"),
        ("hf://user/repo@/etc/passwd", "is no revision"),
        ("hf://user/repo@a\x1b[2J", "is no revision"),
        (f"hf://user/repo@{'a' * 201}", "is no revision"),
    ],
)
def test_what_is_nearly_a_name_is_refused(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError) as told:
        parse_reference(text)
    assert str(told.value).startswith(f"{text}: ") and said in str(told.value)


def test_a_file_called_nearly_like_a_network_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s4").write_bytes(b"x")
    assert parse_reference("s4") is None


@pytest.mark.parametrize(
    "user", ["a", "A-b", "a_b.c", "-a", "a-", "a--b", "a..b", "é", "a" * 96, "a" * 97, "a b", ".a"]
)
@pytest.mark.parametrize("name", ["r", "r.git", "-r", "r.", "r--s", "r..s", "r" * 97, "r.s_t-u", ""])
def test_repositories_are_called_as_the_hub_has_it(user, name):
    """The rule is written down here, because the import of the hub's client takes longer than a prediction."""
    try:
        validate_repo_id(f"{user}/{name}")
        valid = True
    except HFValidationError:
        valid = False
    try:
        assert parse_reference(f"hf://{user}/{name}").repository == f"{user}/{name}"
        assert valid
    except ArgumentError:
        assert not valid


def test_published_figures_are_of_the_variants():
    assert PUBLISHED.keys() == VARIANTS.keys()
    for name, published in PUBLISHED.items():
        assert published.image_size == VARIANTS[name].image_size
        assert abs(published.top1 - published.paper_top1) < 0.05
        assert Reference(name, published.repository).published is published
        assert replace(Reference(name, published.repository), name=f"{name}@v1").published is published

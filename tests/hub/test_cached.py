"""What is found without the hub's client: where it keeps its files, and what hostile files in a cache can do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from shvit.hub.cached import Fetched, choose_file
from shvit.hub.names import Reference
from shvit.hub.repository_card import read_config, read_metadata

from .conftest import run_process

PLACES = """
import os, sys
from shvit.hub.cached import hub_cache, is_offline
found = hub_cache(), is_offline()
assert "huggingface_hub" not in sys.modules
from huggingface_hub import constants
assert found == (type(found[0])(constants.HF_HUB_CACHE), constants.HF_HUB_OFFLINE), (found, constants.HF_HUB_CACHE)
assert hub_cache() == found[0]
"""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"HF_HUB_CACHE": "~/a/$USER-b", "USER": "me"},
        {"HUGGINGFACE_HUB_CACHE": "/a/b"},
        {"HUGGINGFACE_HUB_CACHE": "/a/b", "HF_HUB_CACHE": "/c"},
        {"HF_HOME": "~/there"},
        {"HF_HOME": "/$HOME/there", "XDG_CACHE_HOME": "/x"},
        {"HF_HUB_OFFLINE": "yes", "TRANSFORMERS_OFFLINE": "0"},
        {"TRANSFORMERS_OFFLINE": "on"},
        {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
    ],
)
def test_the_cache_is_where_the_client_has_it(hub, tmp_path, changes):
    assert run_process(hub, tmp_path, [sys.executable, "-c", PLACES], **changes).stderr == ""


def test_and_without_any_setting(hub, tmp_path):
    unset = "import os; os.environ.pop('HF_HOME'); os.environ.pop('XDG_CACHE_HOME', None)\n"
    for more in ("", "os.environ['XDG_CACHE_HOME'] = '~/x'\n"):
        done = run_process(hub, tmp_path, [sys.executable, "-c", unset + more + PLACES])
        assert done.stderr == ""


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"file": "../../../../../secret"},
        {"file": ".."},
        {"commit": "../../x"},
        {"kind": "pickle"},
        {"size": "large"},
        {"metadata": []},
    ],
)
def test_a_note_that_is_not_as_ours_is_none(fetch, hub, tmp_path, published, change):
    first = fetch()
    (note,) = (tmp_path / "shvit" / "hub").glob("*.json")
    (tmp_path / "secret").write_bytes(b"x")
    note.write_text(json.dumps({**json.loads(note.read_text()), **change}))
    again = fetch(HF_HUB_OFFLINE="1")
    assert (again.file, again.sha256, again.licence) == (first.file, first.sha256, "mit")


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b" " * 2**20])
def test_nor_is_what_is_no_note(fetch, tmp_path, published, content):
    first = fetch()
    (note,) = (tmp_path / "shvit" / "hub").glob("*.json")
    note.write_bytes(content)
    assert fetch(HF_HUB_OFFLINE="1").sha256 == first.sha256


@pytest.mark.parametrize(
    ("names", "any_", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors", "model.safetensors"),
        (["pytorch_model.bin", "README.md"], "pytorch_model.bin", "pytorch_model.bin"),
        (["flowers.onnx", "model.safetensors"], "flowers.onnx", "model.safetensors"),
        (["a.onnx", "b.onnx", "model.safetensors"], "model.safetensors", "model.safetensors"),
        (["a.onnx", "shvit.onnx", "model.onnx"], "shvit.onnx", None),
        (["onnx/model.onnx", "sub/model.safetensors"], None, None),
        ([], None, None),
    ],
)
def test_the_file_that_is_taken(names, any_, weights):
    assert (choose_file(names, "any") or (None,))[0] == any_
    assert (choose_file(names, "weights") or (None,))[0] == weights


HEADS = {
    "---\nlicense: mit\n---\n": {"license": "mit"},
    "\ufeff---\r\nlicense: other\r\nlicense_name: mine\r\n---\r\ntext": {"license": "other", "license_name": "mine"},
    "---\ndatasets:\n- a\n- b\nlicense: no\n---": {"datasets": ["a", "b"], "license": "no"},
    "---\nlicense: !!python/object/apply:os.system ['touch here']\n---\n": {"license": ["touch here"]},
    "---\nlicense: {a: b}\ntags: [a, [b]]\nother: text\n---\n": {},
    f"---\nlicense: {'a' * 201}\n---\n": {},
    f"---\ntags: [{'a, ' * 51}]\n---\n": {},
    f"---\nlicense: {'[' * 20_000}\n---\n": {},
    f"---\nlicense: mit\nx: {'a' * 70_000}\n---\n": {},
    "---\nlicense: [unclosed\n---\n": {},
    "---\n- a\n---\n": {},
    "no head\n---\nlicense: mit\n---\n": {},
    "---\nlicense: mit\n": {},
    "": {},
}


@pytest.mark.parametrize("text", HEADS)
def test_the_head_of_a_readme(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_metadata(tmp_path / "README.md") == HEADS[text]
    assert not Path("here").exists()


def test_the_licence_is_as_the_repository_states_it():
    def licence(**metadata):
        return Fetched(Reference("a", "b/c"), Path("f"), "weights", "0" * 40, "0" * 64, {}, metadata).licence

    assert licence(license="apache-2.0", license_name="x") == "apache-2.0"
    assert licence(license="other", license_name="mine") == "mine"
    assert licence(license="other") == "other"
    assert licence(license=["mit", "bsd"]) is None and licence() is None


@pytest.mark.parametrize("content", [b"[]", b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a": "' + b"x" * 2**22 + b'"}'])
def test_a_config_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    assert read_config(tmp_path / "config.json") == {}

"""What a repository says of itself, in files that anybody may have written: ``config.json``, and the README's head."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from shvit.reading import read_regular

MAX_CONFIG_BYTES = 4 * 2**20
"""One with the labels of ImageNet-21k has about 1 MB."""

MAX_README_BYTES = 2**20
MAX_HEAD_BYTES = 64 * 2**10
"""Of the block of YAML that a README begins with."""

MAX_TEXT = 200
"""Characters of one text in it."""

MAX_TEXTS = 50
"""Texts in one list of it."""

KEYS = ("license", "license_name", "license_link", "library_name", "pipeline_tag", "datasets", "base_model", "tags")
"""What is kept of it."""

_HEAD = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.json``; empty where there is none, or no JSON object of an accepted size."""
    try:
        found = json.loads(read_regular(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_metadata(path: Path) -> dict[str, str | list[str]]:
    """Of the head of a README what stands by ``KEYS``, texts and lists of texts; empty where there is none."""
    try:
        text = read_regular(path, MAX_README_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    head = _HEAD.match(text)
    if head is None or len(head[1]) > MAX_HEAD_BYTES:
        return {}
    import yaml  # the hub's client needs it; 20 ms

    try:
        found = yaml.load(head[1], Loader=yaml.BaseLoader)  # which makes texts, lists and mappings, and nothing else
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: found[key] for key in KEYS if key in found and _is_sound(found[key])}


def _is_sound(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_TEXTS and all(map(_is_text, value))
    return _is_text(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT

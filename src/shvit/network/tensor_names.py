"""What a network's tensors are called: by us, by timm, by the reference repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Names = Literal["shvit", "timm", "reference"]

_TO_TIMM = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^stem\.", "patch_embed."),
        (r"\.downsample\.local_in\.dw\.", ".downsample.0.m."),
        (r"\.downsample\.ffn_in\.", ".downsample.1.m."),
        (r"\.downsample\.merge\.expand\.", ".downsample.2.conv1."),
        (r"\.downsample\.merge\.dw\.", ".downsample.2.conv2."),
        (r"\.downsample\.merge\.project\.", ".downsample.2.conv3."),
        (r"\.merge\.squeeze_excite\.reduce\.", ".2.se.fc1."),
        (r"\.merge\.squeeze_excite\.expand\.", ".2.se.fc2."),
        (r"\.downsample\.local_out\.dw\.", ".downsample.3.m."),
        (r"\.downsample\.ffn_out\.", ".downsample.4.m."),
        (r"\.local\.dw\.", ".conv.m."),
        (r"\.attention\.norm\.", ".mixer.m.pre_norm."),
        (r"\.attention\.qkv\.", ".mixer.m.qkv."),
        (r"\.attention\.project\.", ".mixer.m.proj.1."),
        (r"\.ffn\.", ".ffn.m."),
        (r"(\.m)\.expand\.", r"\1.pw1."),
        (r"(\.ffn\.m|downsample\.[14]\.m)\.project\.", r"\1.pw2."),
        (r"\.conv\.(weight|bias)$", r".c.\1"),
        (r"^(head(?:_dist)?)\.linear\.", r"\1.l."),
        (r"(?<!pre_)\bnorm\.", "bn."),
    )
]
# timm's downsample.0 to .4 stand in three sub-modules of the reference, which counts blocks after them.
_DOWNSAMPLE = {"0": "0.0", "1": "0.1", "2": "1", "3": "2.0", "4": "2.1"}


def _timm_name(name: str) -> str:
    for pattern, replacement in _TO_TIMM:
        name = pattern.sub(replacement, name)
    return name


def _reference_name(name: str) -> str:
    parts = _timm_name(name).split(".")
    if parts[0] != "stages":
        return ".".join(parts)
    stage = int(parts[1])
    if parts[2] == "downsample":
        return ".".join([f"blocks{stage + 1}", _DOWNSAMPLE[parts[3]], *parts[4:]])
    place = int(parts[3]) + (3 if stage > 0 else 0)
    return ".".join([f"blocks{stage + 1}", str(place), *parts[4:]])


RENAME: dict[Names, Callable[[str], str]] = {
    "shvit": lambda name: name,
    "timm": _timm_name,
    "reference": _reference_name,
}
"""From our name of a tensor to another's."""

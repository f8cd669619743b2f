"""What is given for a model, everywhere one is taken: a shipped model's name, a name on the hub, or a path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shvit import shipped
from shvit.display import say
from shvit.errors import ArgumentError, ModelFileError
from shvit.hub.names import Reference, parse_reference

if TYPE_CHECKING:
    from shvit.hub.cached import Wanted
    from shvit.hub.convert import NamedPrecision


INT8 = ":int8"
"""After a name: its file in 8 bits, which ``shvit export`` makes from photographs once."""


def resolve_model(model: str | Path) -> Path:
    """The model file behind a name or a path.

    A name on the hub (``shvit_s4``, ``hf://user/repository``, either with ``@revision``) gives the file that was made
    of its weights; the first time they are fetched and it is made, which takes some seconds. With ``:int8`` behind it
    the file in 8 bits is given, which ``shvit export`` makes.

    Raises:
        ModelFileError: it is neither a name nor a model file; the message says what to give instead.
        HubError: the weights are not here and cannot be fetched.
        CheckpointError: they cannot be used.
        ExportError: the model file cannot be written.
    """
    precision: NamedPrecision = "int8" if isinstance(model, str) and model.endswith(INT8) else "fp16"
    reference = reference_of(model)
    return shipped.resolve_model(model) if reference is None else _named_model(reference, precision)


def reference_of(model: str | Path) -> Reference | None:
    """What a name on the hub means; ``None`` of a shipped model's name and of a path.

    Raises:
        ArgumentError: it looks like such a name and is none.
    """
    if isinstance(model, Path):
        return None
    if not isinstance(model, str):
        raise ArgumentError(f"expected a model's name or the path of its file, got {type(model).__name__}")
    if model in shipped.SHIPPED_MODELS:
        return None
    return parse_reference(model.removesuffix(INT8))


def _named_model(reference: Reference, precision: NamedPrecision) -> Path:
    from shvit.card import METADATA_KEY
    from shvit.engines.onnx_graph import has_metadata
    from shvit.hub.convert import convert, converted_file
    from shvit.hub.fetch import fetch

    wanted: Wanted = "weights" if precision == "int8" else "any"  # of which alone a file in 8 bits is made
    fetched = fetch(reference, wanted=wanted)
    if fetched.kind == "model":
        return fetched.file
    path = converted_file(fetched, precision)
    if path.is_file() and has_metadata(path, METADATA_KEY, fetched.sha256):  # else it was cut off, or is another's
        return path
    if precision == "int8":
        raise ModelFileError(
            f"{reference.name}{INT8}: is made once, of 200 photographs or more: shvit export --model {reference.name} "
            "--precision int8 --calibration photos/"
        )
    if sys.stderr.isatty():
        say(f"{reference.name}: making its model file, which is done once", sys.stderr)
    convert(fetched, path)
    return path

"""Values of a card: checked when they are made, and read from JSON by their types."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn, get_args, get_origin

from shvit.errors import ArgumentError

MAX_TEXT = 10_000
"""Characters of any text but a label."""

_MAX_INTEGER = 2**63 - 1


def refuse_constant(name: str) -> NoReturn:
    """``NaN`` and ``Infinity``, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no number of JSON")


def check_text(name: str, text: str, most: int) -> None:
    """Raises: ValueError: it is too long, or cannot be written as UTF-8."""
    if len(text) > most:
        raise ArgumentError(f"{name}: expected at most {most:,} characters, got {len(text):,}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError(f"{name}: expected text, got half of a character: {describe(text)}") from None


def check_fields(instance: Any) -> None:
    """Raises: ValueError: one of its texts, whole numbers (from 0) or other numbers (finite) is out of its bounds."""
    for name, value in vars(instance).items():
        if isinstance(value, str):
            check_text(name, value, MAX_TEXT)
        elif isinstance(value, int) and not 0 <= value <= _MAX_INTEGER:
            raise ArgumentError(f"{name}: expected 0 to 2**63 - 1, got {describe(value)}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ArgumentError(f"{name}: expected a finite number, got {value}")


_type_hints = lru_cache(maxsize=None)(typing.get_type_hints)  # a card has one object a class, and hints are slow


def build(kind: Any, raw: Any, where: str) -> Any:
    """JSON to a typed value; errors name the field by its path."""
    if is_dataclass(kind):
        if not isinstance(raw, dict):
            raise ValueError(f"{where}: expected an object, got {describe(raw)}")
        hints = _type_hints(typing.cast(type, kind))
        values = {}
        for field in fields(kind):
            path = f"{where}.{field.name}"
            if field.name in raw:
                values[field.name] = build(hints[field.name], raw[field.name], path)
            elif field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{path}: missing")
        try:
            return typing.cast(Any, kind)(**values)
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        if raw is None:
            return None
        return build(next(each for each in arguments if each is not type(None)), raw, where)
    if origin is Literal:
        if raw not in arguments:
            raise ValueError(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {describe(raw)}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list):
            raise ValueError(f"{where}: expected a list, got {describe(raw)}")
        if arguments[-1] is Ellipsis:
            return tuple(build(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(raw))
        if len(raw) != len(arguments):
            raise ValueError(f"{where}: expected {len(arguments)} values, got {len(raw)}")
        return tuple(
            build(each_kind, each, f"{where}[{i}]")
            for i, (each_kind, each) in enumerate(zip(arguments, raw, strict=True))
        )
    accepted = (int, float) if kind is float else kind
    if not isinstance(raw, accepted) or isinstance(raw, bool) != (kind is bool):
        raise ValueError(f"{where}: expected {kind.__name__}, got {describe(raw)}")
    try:
        return kind(raw)
    except OverflowError:  # a whole number of more than 308 digits, where a float is expected
        raise ValueError(f"{where}: expected {kind.__name__}, got {describe(raw)}") from None


def describe(raw: Any) -> str:
    """A value in one short line, in ASCII."""
    if isinstance(raw, list | dict):  # may be nested deeper than can be written
        return f"a list of {len(raw)}" if isinstance(raw, list) else f"an object of {len(raw)} keys"
    if isinstance(raw, int) and raw.bit_length() > 10_000:
        return "a number of thousands of digits"  # Python refuses to write it
    text = json.dumps(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Reading pickles that anybody may have written: tensors and plain containers are made, and nothing is run.

``pickle`` finds the instructions' arguments and keeps the stack. Whatever makes a value is written here, and takes the
types that it is meant for alone. What a pickle names is looked up in a table; a name that is not there ends the
reading.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np

from shvit.errors import CheckpointError
from shvit.network.dtypes import STORAGES, TYPES, OddTensor

MAX_STEPS = 2_000_000
"""Instructions, and elements copied, each of which makes 216 bytes at most; S4 with its optimizer takes 60,000."""

_TEXT_PER_STEP = 32
"""Characters and bytes that may be copied for one step."""

_MAX_KEY_PARTS = 64
_MAX_KEY = 2**60  # of larger numbers, many can be found that are alike to a dictionary
_STEPS_PER_TUPLE = 200
"""For a tuple that is a key, or may become one: of tuples, too, many can be found that are alike."""

LoadStorage = Callable[[str, int, int], np.ndarray]
"""From a storage's key, the number of its elements, and the bytes of each, to ``uint8 (bytes,)``."""


class NumPyValue:
    """Stands for one, which is not read; messages call it by this name."""


@dataclass(frozen=True)
class _Maker:
    """What a pickle may call in place of what it names."""

    make: Callable[..., Any]


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclass(frozen=True)
class _Storage:
    content: np.ndarray
    """``uint8 (bytes,)``."""
    dtype: np.dtype


class Unpickler(pickle._Unpickler):  # the one in C takes gigabytes for the place of a value in its memo
    """Reads one pickle.

    Args:
        path: for messages.
        file: the bytes, in memory: lengths in a pickle are taken as they are.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, path: Path, file: BinaryIO, load_storage: LoadStorage) -> None:
        super().__init__(file, encoding="utf-8")  # of texts that Python 2 wrote
        self._path, self._load_storage = path, load_storage
        self._steps = _Steps()
        self.dispatch = self._steps  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name.

        Raises:
            CheckpointError: nothing does.
        """
        full = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if full in _KNOWN:
            return _KNOWN[full]
        if storage := re.fullmatch(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage", full):
            if storage[1] in STORAGES:
                return _StorageType(TYPES[STORAGES[storage[1]]])
        elif _CONSTANT.fullmatch(full):
            return full
        shown = re.sub(r"[^\w.]", "?", full)[:100]
        raise CheckpointError(
            f"{self._path}: refused: the file asks to run code ({shown}); nothing of it was executed; of a network of "
            "yours, save the weights alone: torch.save(model.state_dict(), ...)"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(each for each in pid[5:]):
            raise pickle.UnpicklingError("it refers to something else than a storage of tensors")
        _, kind, key, _, count = pid[:5]
        if type(kind) is not _StorageType or type(key) is not str or not _are_sizes([count]):
            raise pickle.UnpicklingError("a storage's name, type or size cannot be")
        return _Storage(self._load_storage(key, count, kind.dtype.itemsize), kind.dtype)

    def step_make(self) -> None:
        """REDUCE and NEWOBJ: a value from what a name stands for, and arguments."""
        arguments, maker = self.stack.pop(), self.stack[-1]
        if type(maker) is not _Maker or type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"it calls something that cannot be called, {type(maker).__name__}")
        for each in arguments:
            if isinstance(each, (str, bytes)):
                self._steps.spend(len(each) // _TEXT_PER_STEP)
            elif isinstance(each, (list, tuple, dict, set, frozenset)):
                self._steps.spend(len(each) + _STEPS_PER_TUPLE * sum(type(part) is tuple for part in each))
        self.stack[-1] = maker.make(*arguments)

    def step_build(self) -> None:
        """BUILD: the attributes of an ``argparse.Namespace``. Those of other values are left out."""
        state, value = self.stack.pop(), self.stack[-1]
        if type(value) is argparse.Namespace and type(state) is dict and all(type(key) is str for key in state):
            self._steps.spend(len(state))
            vars(value).update(state)
        elif type(value) not in (dict, NumPyValue, OddTensor):
            raise pickle.UnpicklingError(f"a {type(value).__name__} has no attributes to set")

    def step_append(self) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def step_extend(self) -> None:
        items = self.pop_mark()
        self._top(list).extend(items)

    def step_set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[self._key(key)] = value

    def step_set_items(self) -> None:
        items = self.pop_mark()
        top = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            top[self._key(key)] = value

    def step_add_items(self) -> None:
        items = self.pop_mark()
        self._top(set).update(map(self._key, items))

    def step_frozenset(self) -> None:
        items = self.pop_mark()  # before ``append`` is asked for, which it exchanges
        self.append(frozenset(map(self._key, items)))

    def _key(self, key: Any) -> Any:
        if type(key) is tuple:
            self._steps.spend(_STEPS_PER_TUPLE)
        return _checked_key(key)

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise pickle.UnpicklingError(f"it adds to a {type(self.stack[-1]).__name__} as to a {kind.__name__}")
        return self.stack[-1]


def _instructions() -> dict[int, Callable[[Any], None]]:
    """Those of protocols 2 to 5 that ``torch.save`` writes, and what they do."""
    read = (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT),
        *(pickle.BINGET, pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT),
        *(pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
        *(pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.SHORT_BINSTRING),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST),
        *(pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
    )
    return {
        **{each[0]: pickle._Unpickler.dispatch[each[0]] for each in read},
        pickle.REDUCE[0]: Unpickler.step_make,
        pickle.NEWOBJ[0]: Unpickler.step_make,
        pickle.BUILD[0]: Unpickler.step_build,
        pickle.APPEND[0]: Unpickler.step_append,
        pickle.APPENDS[0]: Unpickler.step_extend,
        pickle.SETITEM[0]: Unpickler.step_set_item,
        pickle.SETITEMS[0]: Unpickler.step_set_items,
        pickle.ADDITEMS[0]: Unpickler.step_add_items,
        pickle.FROZENSET[0]: Unpickler.step_frozenset,
    }


_INSTRUCTIONS = _instructions()


class _Steps(dict[int, Callable[[Any], None]]):
    """The instructions, of which a pickle may look up so many."""

    def __init__(self) -> None:
        super().__init__(_INSTRUCTIONS)
        self._left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise pickle.UnpicklingError(f"it takes more than {MAX_STEPS:,} steps to read")

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.spend(1)
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"it has an instruction that torch.save does not write, {bytes([code])!r}")


def _checked_key(key: Any) -> Any:
    """A key of a dictionary, or an element of a set, that is compared at once: tuples in tuples may take for ever."""
    for each in key if type(key) is tuple and len(key) <= _MAX_KEY_PARTS else (key,):
        if each is not None and type(each) not in (str, bytes, int, float, bool, NumPyValue):
            raise pickle.UnpicklingError(f"a key of a dictionary or a set is a {type(key).__name__}")
        if type(each) is int and abs(each) >= _MAX_KEY:
            raise pickle.UnpicklingError("a key of a dictionary or a set is a number of more than 60 bits")
    return key


def _are_sizes(values: Any) -> bool:
    """Whether these are whole numbers, none below zero, of 64 bits."""
    return type(values) in (tuple, list) and all(type(each) is int and 0 <= each < 2**63 for each in values)


def _tensor(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *more: Any) -> Any:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2``; ``more`` has whether it takes a gradient, hooks, and flags."""
    return _view(storage, storage.dtype, offset, shape, strides, *more[2:])


def _typed_tensor(
    storage: _Storage,
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    takes_gradient: bool,
    hooks: Any,
    dtype: str,
    *flags: Any,
) -> Any:
    """``_rebuild_tensor_v3``, of types that no class of storages has."""
    found = TYPES.get(dtype.removeprefix("torch."))
    return OddTensor() if found is None else _view(storage, found, offset, shape, strides, *flags)


def _view(
    storage: _Storage, dtype: np.dtype, offset: int, shape: Sequence[int], strides: Sequence[int], flags: Any = None
) -> Any:
    """A tensor's elements within a storage; with a flag, such as a conjugate's, they are not its values."""
    if type(storage) is not _Storage or not _are_sizes([offset]) or not _are_sizes(shape) or not _are_sizes(strides):
        raise pickle.UnpicklingError("a tensor's storage, offset, shape or strides cannot be")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor of {len(shape)} dimensions has {len(strides)} strides")
    if flags:
        return OddTensor()
    size = dtype.itemsize
    if 0 in shape:
        return np.empty(shape, dtype)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if (last + 1) * size > len(storage.content):
        raise pickle.UnpicklingError(f"a tensor reaches beyond its storage of {len(storage.content)} bytes")
    return np.ndarray(
        tuple(shape), dtype, storage.content.data, offset * size, tuple(stride * size for stride in strides)
    )


def _odd(*parts: Any) -> OddTensor:
    return OddTensor()


def _same(value: Any, *more: Any) -> Any:
    """A parameter as its tensor, without its attributes."""
    return value


def _from_other_device(value: Any, dtype: str, *more: Any) -> Any:
    """A tensor of a device that has no storages, as it was saved from the CPU."""
    same = isinstance(value, np.ndarray) and dtype == f"torch.{value.dtype.name}"
    return value if same else OddTensor()


def _with_attributes(maker: Any, kind: Any, arguments: Any, *state: Any) -> Any:
    """``_rebuild_from_type_v2``: a tensor, without its attributes."""
    if type(maker) is not _Maker or maker.make not in _REBUILDERS.values() or type(arguments) is not tuple:
        raise pickle.UnpicklingError("a tensor of another class is not made as one")
    return maker.make(*arguments) if kind in ("torch.Tensor", "torch.nn.parameter.Parameter") else OddTensor()


def _dict(items: Any = ()) -> dict[Any, Any]:
    pairs: Iterable[tuple[Any, Any]] = items.items() if type(items) is dict else items
    return {_checked_key(key): value for key, value in pairs}


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("bytes are not written in Latin-1")
    return text.encode("latin-1")


def _bytes(content: bytes = b"") -> bytes:
    if type(content) is not bytes:
        raise pickle.UnpicklingError(f"bytes are made of a {type(content).__name__}")
    return content


def _complex(real: float, imaginary: float) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise pickle.UnpicklingError("a complex number is not made of two numbers")
    return complex(real, imaginary)


def _text(*parts: Any) -> str:
    """A device or a layout by its name."""
    if not all(type(each) in (str, int) for each in parts):
        raise pickle.UnpicklingError("a device or a layout has no name")
    return ":".join(map(str, parts))


_REBUILDERS: dict[str, Callable[..., Any]] = {
    "tensor": _tensor,
    "tensor_v2": _tensor,
    "tensor_v3": _typed_tensor,
    "parameter": _same,
    "parameter_with_state": _same,
    "device_tensor_from_cpu_tensor": _from_other_device,
    "device_tensor_from_numpy": _odd,
    "meta_tensor_no_storage": _odd,
    "nested_tensor": _odd,
    "qtensor": _odd,
    "sparse_tensor": _odd,
    "wrapper_subclass": _odd,
}
"""Functions of ``torch._utils``, without ``_rebuild_``."""

_CONSTANT = re.compile(
    r"torch\.(bool|bfloat16|float\d+\w*|b?complex\d+|q?u?int\d+(x\d)?|bits\d+(x\d)?|per_(tensor|channel)_\w+|Tensor)"
    r"|torch\.nn\.parameter\.Parameter"
)
"""Names of types, of ways to quantise, and of classes, that stand for themselves."""

_KNOWN: dict[str, _Maker] = {
    "argparse.Namespace": _Maker(lambda: argparse.Namespace()),
    "builtins.bytearray": _Maker(_bytes),
    "builtins.bytes": _Maker(_bytes),
    "builtins.complex": _Maker(_complex),
    "builtins.frozenset": _Maker(lambda items: frozenset(map(_checked_key, items))),
    "builtins.set": _Maker(lambda items: set(map(_checked_key, items))),
    "_codecs.encode": _Maker(_encode),
    "collections.Counter": _Maker(_dict),
    "collections.OrderedDict": _Maker(_dict),
    **{
        f"{module}.{name}Path": _Maker(kind)
        for module in ("pathlib", "pathlib._local")
        for name, kind in (("Posix", PurePosixPath), ("Windows", PureWindowsPath))
    },
    **{f"numpy.{name}": _Maker(lambda *parts: NumPyValue()) for name in ("dtype", "ndarray")},
    **{
        f"numpy.{core}.multiarray.{name}": _Maker(lambda *parts: NumPyValue())
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
    "torch.device": _Maker(_text),
    "torch.serialization._get_layout": _Maker(_text),
    "torch.Size": _Maker(tuple),
    "torch._tensor._rebuild_from_type_v2": _Maker(_with_attributes),
    **{f"torch._utils._rebuild_{name}": _Maker(make) for name, make in _REBUILDERS.items()},
}
"""What a pickle may name, and what is made in its place: that of ``torch.save``'s tensors, and plain values."""

"""Types of numbers in files of weights: what PyTorch and safetensors call them, and what they are as arrays."""

from __future__ import annotations

import ml_dtypes
import numpy as np

_NUMPYS = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_SMALL = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")

TYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in _NUMPYS},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _SMALL},
}
"""By PyTorch's names, without ``torch.``, which are NumPy's as well. PyTorch has more, of no use as weights."""


def _table(text: str) -> dict[str, str]:
    return dict(each.split(":") for each in text.split())


SAFETENSORS = _table(
    "BOOL:bool U8:uint8 U16:uint16 U32:uint32 U64:uint64 I8:int8 I16:int16 I32:int32 I64:int64 "
    "F16:float16 BF16:bfloat16 F32:float32 F64:float64 C64:complex64 F8_E4M3:float8_e4m3fn "
    "F8_E4M3FNUZ:float8_e4m3fnuz F8_E5M2:float8_e5m2 F8_E5M2FNUZ:float8_e5m2fnuz F8_E8M0:float8_e8m0fnu"
)
"""From the names in a safetensors file's header to those in ``TYPES``."""

STORAGES = _table(
    "Bool:bool Byte:uint8 Char:int8 Short:int16 Int:int32 Long:int64 Half:float16 BFloat16:bfloat16 Float:float32 "
    "Double:float64 ComplexFloat:complex64 ComplexDouble:complex128 Untyped:uint8 "
    "QInt8:int8 QUInt8:uint8 QUInt4x2:uint8 QUInt2x4:uint8 QInt32:int32"
)
"""From the names of PyTorch's classes of storages, without ``Storage``, to those in ``TYPES``."""


class OddTensor:
    """Stands for a tensor that is no plain array of numbers: sparse, quantised, nested, or without values."""

    shape: tuple[int, ...] = ()
    nbytes = 0


AnyTensor = np.ndarray | OddTensor
"""A tensor as it is read from a file."""


def torch_name(dtype: np.dtype) -> str:
    """What PyTorch calls a type: ``torch.float32``."""
    return f"torch.{dtype.name}"


def is_float(dtype: np.dtype) -> bool:
    """Whether it is a type of real numbers that may be infinite or none."""
    return dtype.kind in "fV"

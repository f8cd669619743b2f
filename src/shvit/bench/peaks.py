"""What the machine can do at best: products of large matrices, and copies of large arrays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

SIDE = 1024
"""Of the square matrices: large enough that arithmetic is all that counts."""
COPIED = 128 * 2**20
"""Bytes of the array that is copied: more than any cache holds."""


@dataclass(frozen=True)
class Peaks:
    """Measured, the best of some runs."""

    threads: int
    fp32_gflops: float
    """10⁹ multiplications and additions a second in float32."""
    fp32_by: str
    """The library that reached it."""
    int8_gops: float
    """The same of 8-bit factors summed in 32 bits."""
    int8_by: str
    copy_gb_per_second: float
    """10⁹ bytes a second, read and written ones both counted."""


def measure_peaks(threads: int, seconds: float = 0.5) -> Peaks:
    """Times ONNX Runtime's and PyTorch's matrix products, and a copy, on so many threads.

    Args:
        seconds: for each of the five.
    """
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    small = rng.integers(-64, 64, (2, SIDE, SIDE), dtype=np.int8)
    unsigned = (small[0].astype(np.int16) + 64).astype(np.uint8)
    sums = _matrix_product("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, threads)
    product = _matrix_product("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, threads)
    left, right = torch.from_numpy(floats)
    small_left, small_right = torch.from_numpy(small)
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.zeros_like(source)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fp32 = {
            "ONNX Runtime": _best(lambda: product(floats[0], floats[1]), seconds),
            "PyTorch": _best(lambda: left @ right, seconds),
        }
        int8 = {
            "ONNX Runtime": _best(lambda: sums(unsigned, small[1]), seconds),
            "PyTorch": _best(lambda: torch._int_mm(small_left, small_right), seconds),
        }
        copy = _best(lambda: target.copy_(source), seconds)
    finally:
        torch.set_num_threads(before)
    operations = 2 * SIDE**3 / 1e9
    fp32_by, int8_by = (min(times, key=times.__getitem__) for times in (fp32, int8))
    return Peaks(
        threads, operations / fp32[fp32_by], fp32_by, operations / int8[int8_by], int8_by, 2 * COPIED / copy / 1e9
    )


def _best(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the quickest of many runs, at least three."""
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _matrix_product(
    operator: str, left: int, right: int, result: int, threads: int
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    shape = [SIDE, SIDE]
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind in zip("abc", (left, right, result), strict=True)
    ]
    graph = helper.make_graph([helper.make_node(operator, ["a", "b"], ["c"])], "product", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda a, b: session.run(None, {"a": a, "b": b})[0]

"""Post-training quantisation of a model file's graph: convolutions in 8 bits, the rest as it is."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 16


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter(np.array_split(images, -(-len(images) // BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantize_convolutions(proto: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """The same graph with each convolution between a quantisation and a dequantisation (QDQ).

    Activations are unsigned with a range for each tensor, the smallest and largest value of the calibration images;
    weights are signed, of 7 bits, with a scale for each output channel. That is what ONNX Runtime and OpenVINO both
    have fast kernels for; with 8 bits, sums of two products overflow on x86 processors without VNNI instructions.
    Attention, normalisations and the head stay in float32: they are a few per cent of the arithmetic.

    Args:
        calibration: images like those to be classified, ``uint8 (N, H, W, 3)``; some hundred are enough.
    """
    with tempfile.TemporaryDirectory() as name:
        source, prepared, quantized = (Path(name) / f"{each}.onnx" for each in ("source", "prepared", "quantized"))
        onnx.save(proto, source)
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns that its own preparation, which comes next, was left out
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantized),
                _Images(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )
        finally:
            logger.setLevel(level)
        result = onnx.load(quantized)
    result.producer_name = proto.producer_name
    return result

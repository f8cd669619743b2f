"""LiteRT (formerly TensorFlow Lite): a ``.tflite`` file, with the card and the labels in a ZIP archive at its end."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from shvit.card import CARD_FILE, Card
from shvit.engines import available_threads, load_engine
from shvit.errors import ExportError, MissingDependencyError
from shvit.exporting.trace import deployed
from shvit.install import install_command
from shvit.modelfile.source import Source
from shvit.modelfile.verify import Written, quiet, with_version

LABELS_FILE = "labels.txt"

QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D")
"""Operations that int8 is for."""


def convert(source: Source, path: Path) -> Written:
    """Writes the graph.

    fp16 stores weights in half the size and computes in float32. int8 has convolutions and fully connected layers
    computed in 8 bits, with ranges from the calibration images; what lies between them stays float32.
    """
    try:
        with quiet():
            import litert_torch
    except ImportError as error:
        raise MissingDependencyError(
            f"the LiteRT converter is not installed: {install_command('litert-export')}"
        ) from error
    height, width = source.card.preprocessing.image_size
    _check_tokens(source)
    example = torch.zeros(source.batch_size, height, width, 3, dtype=torch.uint8)
    with quiet():
        litert_torch.convert(deployed(source), (example,)).export(str(path))
        graph = path.read_bytes()
        if source.precision != "fp32":
            graph = _quantize(graph, source)

    def seal(card: Card) -> None:
        path.write_bytes(graph)
        labels = "".join(f"{' '.join(each.label.split())}\n" for each in card.classes)
        # The layout of TFLite's metadata: readers of the graph do not look past its end, and those of ZIP begin there.
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(CARD_FILE, card.to_json())
            archive.writestr(LABELS_FILE, labels)

    return Written(seal, lambda: load_engine("litert", path, threads=1).infer, with_version("ai-edge-litert"))


def _check_tokens(source: Source) -> None:
    """Raises: ExportError: there is attention between the tokens of a single row, on which the converter fails."""
    (height, width), config = source.card.preprocessing.image_size, source.network.config
    attending = (stride for stride, attends in zip(config.strides, config.attention, strict=True) if attends)
    if rows := [stride for stride in attending if height <= stride < width]:
        raise ExportError(
            f"a LiteRT file: of {height}x{width} pixels one stage has a single row of tokens, which the converter "
            f"fails on; give --image-size a height of {max(rows) + 1} or more, or export to ONNX"
        )


def _quantize(graph: bytes, source: Source) -> bytes:
    from ai_edge_quantizer import calibrator, qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.utils import qsv_utils

    operations = qtyping.TFLOperationName
    work = quantizer.Quantizer(graph)
    if source.precision == "fp16":
        half = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        work.update_quantization_recipe(".*", operations.ALL_SUPPORTED, half, AlgorithmName.FLOAT_CASTING)
        return bytes(work.quantize().quantized_model)
    assert source.calibration is not None
    for operation in QUANTIZED:
        work.add_static_config(".*", operations[operation], activation_num_bits=8, weight_num_bits=8)
    # The quantizer's own ``calibrate`` averages the images' ranges, which cuts values off: on Tiny-ImageNet the logits
    # of S1 moved by up to 23 % of the largest so, and by 6 % with the smallest and largest value of all images.
    ranges = calibrator.Calibrator(graph, num_threads=available_threads(), qsv_update_func=qsv_utils.min_max_update)
    (signature,), size = work._float_model.signatureDefs, source.batch_size
    name = signature.inputs[0].name.decode()
    # Whole batches: the last is filled up from the beginning.
    count = -(-len(source.calibration) // size) * size
    images = np.resize(source.calibration, (count, *source.calibration.shape[1:]))
    samples = [{name: each} for each in np.split(images, count // size)]
    ranges.calibrate({signature.signatureKey.decode(): samples}, work._recipe_manager)
    return bytes(work.quantize(ranges.get_model_qsvs()).quantized_model)

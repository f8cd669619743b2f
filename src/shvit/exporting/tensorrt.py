"""TensorRT: an ``.engine`` built from the ONNX graph for the NVIDIA GPU that it is made on.

The format has no metadata: the card is beside the file, in ``NAME.card.json``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shvit.errors import ExportError, MissingDependencyError
from shvit.install import pip_install
from shvit.modelfile.onnx import to_proto
from shvit.modelfile.source import Infer, Source
from shvit.modelfile.verify import Written, in_batches_of, with_version, write_beside


def convert(source: Source, path: Path) -> Written:
    """Builds an engine for 1 to ``source.batch_size`` images; fp16 lets it compute in half precision."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise MissingDependencyError(
            f"TensorRT is not installed; with an NVIDIA GPU, install it with: {pip_install('tensorrt>=10,<11')}"
        ) from error
    if not torch.cuda.is_available():
        raise ExportError(f"{path}: TensorRT builds an engine for the GPU that is there, and PyTorch finds none")
    size = (*source.card.preprocessing.image_size, 3)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(to_proto(source).SerializeToString()):
        raise ExportError(f"{path}: TensorRT cannot read the graph: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    if source.precision == "fp16":
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, *size), (source.batch_size, *size), (source.batch_size, *size))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"{path}: TensorRT could not build an engine from the graph")
    path.write_bytes(bytes(engine))
    return Written(
        partial(write_beside, path), lambda: _load(trt, logger, path, source.batch_size), with_version("tensorrt")
    )


def _load(trt: Any, logger: Any, path: Path, batch_size: int) -> Infer:
    engine = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()

    def infer(images: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(images).cuda()
        context.set_input_shape("images", tuple(given.shape))
        logits = torch.empty(tuple(context.get_tensor_shape("logits")), device="cuda")
        context.set_tensor_address("images", given.data_ptr())
        context.set_tensor_address("logits", logits.data_ptr())
        stream = torch.cuda.current_stream()
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return logits.cpu().numpy()

    return in_batches_of(batch_size, infer)

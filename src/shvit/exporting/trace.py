"""A network as the exporters that trace PyTorch code take it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from shvit.card import IMAGENET_MEAN, IMAGENET_STD
from shvit.modelfile.source import Infer, Source
from shvit.models import SHViT
from shvit.models.reparam import inference_form, module_of
from shvit.network.graph import OPSET


class Deployed(nn.Module):
    """A network folded for inference, behind the input that a model file takes.

    Dividing by the standard deviation is folded into the first convolution. The mean stays a subtraction: the
    convolution pads with zeros, which must keep meaning the mean colour.

    Args:
        folded: takes normalised images ``(N, C, H, W)``; its first convolution is changed.
        mean, std: of the normalisation, for pixels in [0, 1].
    """

    def __init__(
        self, folded: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.network = folded
        self.centred = any(mean)
        self.register_buffer("mean", torch.tensor(mean).mul(255).view(1, -1, 1, 1))
        first = next(module for module in folded.modules() if isinstance(module, nn.Conv2d))
        with torch.no_grad():
            first.weight.div_(torch.tensor(std).mul(255).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """``uint8 (N, H, W, 3)`` to logits ``float32 (N, classes)``."""
        assert isinstance(self.mean, Tensor)
        pixels = images.permute(0, 3, 1, 2).float()
        return self.network(pixels - self.mean if self.centred else pixels)


def deployed(source: Source) -> Deployed:
    """A source's network behind the input that a file takes, for what traces it."""
    return Deployed(module_of(source.network)).eval()


def logits_function(model: SHViT) -> Infer:
    """What a network computes in PyTorch, of images as a file takes them."""
    network = inference_form(model).float().cpu()
    mean, std = (torch.tensor(value) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        return network(((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2)).numpy()

    return run


def trace_to_onnx(deployed: nn.Module, image_size: tuple[int, int]) -> onnx.ModelProto:
    """A graph of what takes ``uint8 (N, H, W, 3)``, any N, with batch normalisations folded into convolutions.

    For networks that ``deployment_graph`` does not know: those that SHViT is compared with.
    """
    example = torch.zeros(2, *image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated internals
        program = torch.onnx.export(
            deployed.eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.producer_name = "shvit"
    proto.doc_string = ""
    for node in proto.graph.node:
        # Stack traces of the machine that exported; they help nobody who runs the file.
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.metadata_props[:]
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
    return proto

"""What a folded network computes, in plain NumPy: the reference that a written file is compared with.

No engine and no framework has a part in it: convolutions are matrix products and sums over shifted copies. Feature maps
are ``(N, H, W, C)``, since a 1x1 convolution is then one product of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shvit.card import IMAGENET_MEAN, IMAGENET_STD
from shvit.network.folding import NORM_EPSILON
from shvit.network.network import FoldedNetwork
from shvit.network.variants import Activation


def logits_of(network: FoldedNetwork, images: np.ndarray) -> np.ndarray:
    """Logits ``float32 (N, classes)`` of images ``uint8 (N, H, W, 3)``, as a model file takes them."""
    return forward(network, normalized(images))


def normalized(images: np.ndarray) -> np.ndarray:
    """Images ``uint8 (N, H, W, 3)`` as ``float32 (N, 3, H, W)`` with ImageNet's mean and standard deviation."""
    mean, std = (np.array(value, np.float32) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images - mean) / std).transpose(0, 3, 1, 2)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # whoever verifies by it tells what is not finite
def forward(network: FoldedNetwork, images: np.ndarray) -> np.ndarray:
    """Normalised images ``(N, in_chans, H, W)`` to logits ``(N, classes)``, in the type of both.

    Without a head the pooled features ``(N, num_features)``.
    """
    run = _Forward(network)
    x = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    steps = network.config.stem_stride.bit_length() - 1
    for step in range(steps):
        x = run.conv3x3(f"stem.{2 * step}", x)
        if step < steps - 1:
            x = _relu(x)
    means = []
    for stage, depth in enumerate(network.config.depths):
        if stage > 0:
            x = run.downsample(f"stages.{stage}.downsample", x)
        for block in range(depth):
            x = run.block(f"stages.{stage}.blocks.{block}", x, network.config.attends(stage, block))
        means.append(x.mean((1, 2)))
    pooled = np.concatenate(means[-network.config.head_stages :], axis=1)
    return run.linear("head", pooled) if network.config.num_classes else pooled


class _Forward:
    """Layers by their names."""

    def __init__(self, network: FoldedNetwork) -> None:
        self._config, self._arrays = network.config, network.arrays

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        """A linear layer, or a 1x1 convolution, of the last dimension."""
        weight = self._arrays[f"{name}.weight"]
        return x @ weight.reshape(weight.shape[:2]).T + self._arrays[f"{name}.bias"]

    def conv3x3(self, name: str, x: np.ndarray) -> np.ndarray:
        """With stride 2: each output is one product of the nine inputs below it."""
        weight = self._arrays[f"{name}.weight"]
        columns = np.concatenate(_shifted(x, 2), axis=-1)
        return columns @ weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)) + self._arrays[f"{name}.bias"]

    def depthwise(self, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        weight = self._arrays[f"{name}.weight"].reshape(-1, 9)
        total = self._arrays[f"{name}.bias"]
        for place, part in enumerate(_shifted(x, stride)):
            total = total + part * weight[:, place]
        return total

    def feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = _ACTIVATIONS[self._config.activation](self.linear(f"{name}.expand", x))
        return x + self.linear(f"{name}.project", hidden)

    def downsample(self, name: str, x: np.ndarray) -> np.ndarray:
        x = self.feed_forward(f"{name}.ffn_in", self.depthwise(f"{name}.local_in", x))
        merge = f"{name}.merge"
        x = _relu(self.depthwise(f"{merge}.dw", _relu(self.linear(f"{merge}.expand", x)), stride=2))
        gate = _relu(self.linear(f"{merge}.squeeze_excite.reduce", x.mean((1, 2), keepdims=True)))
        x = self.linear(f"{merge}.project", x * _sigmoid(self.linear(f"{merge}.squeeze_excite.expand", gate)))
        return self.feed_forward(f"{name}.ffn_out", self.depthwise(f"{name}.local_out", x))

    def block(self, name: str, x: np.ndarray, attention: bool) -> np.ndarray:
        x = self.depthwise(f"{name}.local", x)
        if attention:
            x = self.attention(f"{name}.attention", x)
        return self.feed_forward(f"{name}.ffn", x)

    def attention(self, name: str, x: np.ndarray) -> np.ndarray:
        count, height, width, _ = x.shape
        partial, heads = self._arrays[f"{name}.qkv.weight"].shape[1], self._config.num_heads
        attended, rest = x[..., :partial], x[..., partial:]
        mean = attended.mean((1, 2, 3), keepdims=True)
        variance = attended.var((1, 2, 3), keepdims=True)
        normalised = (attended - mean) / np.sqrt(variance + np.float32(NORM_EPSILON))
        tokens = self.linear(f"{name}.qkv", normalised).reshape(count, height * width, -1)
        queries = self._config.qk_dim * heads
        # (N, tokens, channels) to (N, heads, tokens, channels of a head); the scale is in the queries' weights.
        tokens, gate = tokens[..., : 2 * queries + partial], tokens[..., 2 * queries + partial :]
        q, k, v = (
            part.reshape(count, height * width, heads, -1).transpose(0, 2, 1, 3)
            for part in np.split(tokens, (queries, 2 * queries), axis=-1)
        )
        mixed = (_softmax(q @ k.transpose(0, 1, 3, 2)) @ v).transpose(0, 2, 1, 3)
        if self._config.attention_gate:
            mixed = mixed.reshape(gate.shape) * _sigmoid(gate)
        joined = np.concatenate([mixed.reshape(count, height, width, partial), rest], axis=-1)
        return x + self.linear(f"{name}.project", _relu(joined))


def _shifted(x: np.ndarray, stride: int) -> list[np.ndarray]:
    """The nine inputs of a 3x3 convolution with a border of one, by rows, each ``(N, H / stride, W / stride, C)``."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(3)
        for column in range(3)
    ]


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


_ACTIVATIONS: dict[Activation, Callable[[np.ndarray], np.ndarray]] = {
    "relu": _relu,
    "squared_relu": lambda x: np.square(_relu(x)),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)

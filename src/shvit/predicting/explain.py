"""Where a network looks: its attention, and a map of what speaks for a class. Needs no PyTorch and no second file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from shvit.card import ClassInfo
from shvit.engines import available_threads, check_engine
from shvit.engines.base import FILE_ENGINES, as_model_file_error, as_model_output_error
from shvit.engines.onnx_graph import check_file, read_nodes
from shvit.errors import ArgumentError, MissingDependencyError, ModelFileError, ModelOutputError
from shvit.hub.resolve import resolve_model
from shvit.images.preprocess import ImageSource, Region, decode, describe, kept_region, one_image, preprocess
from shvit.install import pip_install
from shvit.predicting.loaded import check_graph, read_card
from shvit.predicting.outputs import check_rows, scores_of
from shvit.predicting.pickling import MadeOfFile
from shvit.shipped import DEFAULT_MODEL
from shvit.tasks import task_of
from shvit.tasks.results import Prediction

_WEIGHTS = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.attention\.weights")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network computed on its way to one image's labels.

    Stages and blocks count from 1, as the paper counts stages. A map is a grid of tokens, ``float32 (rows, columns)``,
    that covers ``region`` evenly.
    """

    source: str
    image: Image.Image = field(repr=False)
    """As it was decoded: RGB, upright."""
    region: Region
    """The part of the image that the network saw: preprocessing cuts the rest off. Where it pads instead, the region
    has the padding, and is larger than the image."""
    predictions: tuple[Prediction, ...]
    """Best first."""
    classes: tuple[ClassInfo, ...] = field(repr=False)
    attention: dict[tuple[int, int], np.ndarray] = field(repr=False)
    """By stage and block: ``(rows, columns, rows, columns)``, how much the token at the first two indices takes from
    the one at the last two; each token's weights sum to 1. Of several heads the mean."""
    features: np.ndarray = field(repr=False)
    """The last feature map, ``float32 (C, rows, columns)``."""
    class_weights: np.ndarray = field(repr=False)
    """Of the linear layer that follows the mean of ``features``, ``float32 (classes, C)``."""

    @property
    def stages(self) -> tuple[int, ...]:
        """Those with attention."""
        return tuple(sorted({stage for stage, _ in self.attention}))

    def attention_map(self, stage: int, block: int | None = None, token: tuple[int, int] | None = None) -> np.ndarray:
        """What one token attends to, or all of them on average; sums to 1.

        Args:
            block: of the stage; the last one when not given.
            token: row and column; the mean over all tokens when not given.

        Raises:
            ValueError: there is no such block with attention, or no such token.
        """
        weights = self._weights(stage, block)
        if token is None:
            return weights.mean((0, 1))
        (row, column), (rows, columns) = token, weights.shape[:2]
        if not (0 <= row < rows and 0 <= column < columns):
            raise ArgumentError(
                f"token {row},{column}: stage {stage} has {rows}×{columns} tokens, rows 0 to {rows - 1} and columns 0 "
                f"to {columns - 1}"
            )
        return weights[row, column]

    def token_at(self, stage: int, x: float, y: float) -> tuple[int, int]:
        """Row and column of the token at a point of the image, in pixels from its upper left corner.

        Raises:
            ValueError: the network does not see that point, or the stage has no attention.
        """
        rows, columns = self._weights(stage, None).shape[:2]
        left, top, right, bottom = self.region
        first_x, first_y = max(left, 0), max(top, 0)
        end_x, end_y = min(right, self.image.width), min(bottom, self.image.height)
        if not (first_x <= x < end_x and first_y <= y < end_y):
            raise ArgumentError(
                f"point {x:g},{y:g}: outside of what the network sees, x from {first_x:.1f} to {end_x:.1f} and y from "
                f"{first_y:.1f} to {end_y:.1f}"
            )
        return int((y - top) / (bottom - top) * rows), int((x - left) / (right - left) * columns)

    def center(self, stage: int, token: tuple[int, int]) -> tuple[float, float]:
        """The point of the image, in pixels, in the middle of a token's part of it; of padding it lies outside.

        Raises:
            ValueError: there is no such token.
        """
        rows, columns = self.attention_map(stage, token=token).shape
        left, top, right, bottom = self.region
        return left + (token[1] + 0.5) / columns * (right - left), top + (token[0] + 0.5) / rows * (bottom - top)

    def class_activation(self, class_id: int | None = None) -> np.ndarray:
        """The class activation map: what each place adds to a class's logit (Zhou et al. 2016).

        The map's mean and the class's bias are the logit. In an int8 file that holds up to the rounding of the mean.

        Args:
            class_id: the first prediction's when not given.

        Raises:
            ValueError: there is no such class.
        """
        if class_id is None:
            class_id = self.predictions[0].class_id
        if not 0 <= class_id < len(self.class_weights):
            raise ArgumentError(f"class {class_id}: the model has classes 0 to {len(self.class_weights) - 1}")
        return np.tensordot(self.class_weights[class_id], self.features, 1)

    def _weights(self, stage: int, block: int | None) -> np.ndarray:
        blocks = [each for at, each in self.attention if at == stage]
        if not blocks:
            stages = ", ".join(map(str, self.stages)) or "none"
            raise ArgumentError(f"stage {stage}: has no attention; the stages with attention: {stages}")
        block = max(blocks) if block is None else block
        if block not in blocks:
            raise ArgumentError(
                f"block {block}: stage {stage} has attention in its blocks {min(blocks)} to {max(blocks)}"
            )
        return self.attention[stage, block]


class Explainer(MadeOfFile):
    """A model file, ready to show where it looks. Takes what ``shvit export`` writes as ONNX, in any precision.

    The file's own tensors become outputs of the graph in memory; ``Classifier``, beside it, is not slowed by that.
    It is pickled as ``Classifier`` is.

    Args:
        model: a name (``shvit_s4``, ``hf://user/repository``, a shipped model's), or the path of a model file.
        threads: of one inference; as many as there are processors that this process may use when not given.

    Raises:
        ModelFileError: the file cannot be used or was not written by ``shvit export``; the message says why.
        MissingDependencyError: ONNX Runtime is not installed.

    Example:
        >>> explanation = Explainer().explain("samples/coffee.jpg")
        >>> explanation.predictions[0].label
        'espresso'
        >>> explanation.attention_map(stage=2).shape, explanation.class_activation().shape
        ((4, 4), (2, 2))
    """

    def __init__(self, model: str | Path = DEFAULT_MODEL, threads: int | None = None) -> None:
        check_engine("onnxruntime", threads)
        self._path = path = resolve_model(model)
        self._note_origin(model, path, threads=threads)
        if path.suffix.lower() in FILE_ENGINES:
            raise ModelFileError(
                f"{path}: explanations need a graph in ONNX, not {path.suffix}; make one with: shvit export"
            )
        try:
            from shvit.engines.onnxruntime import ONNXRuntimeEngine
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "explanations need ONNX Runtime, whichever engine predicts; install it with: "
                + pip_install("onnxruntime")
            ) from None
        with as_model_file_error(path, "onnxruntime"):
            check_file(path)
            self._tensors = find_tensors(path)
            self._engine = ONNXRuntimeEngine(path, threads or available_threads(), self._tensors.names)
        self.card = read_card(self._engine.metadata, path)
        check_graph(path, self._engine, self.card)

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Stage and block, from 1, of each attention."""
        return tuple(self._tensors.attention)

    def explain(self, image: ImageSource, top_k: int = 5) -> Explanation:
        """Runs the network on one image.

        Args:
            image: a path, encoded bytes, a PIL image or an array ``uint8 (H, W, 3)``.
            top_k: predictions; at most as many as there are classes.

        Raises:
            ImageError: it cannot be read.
            ImageTypeError: it is no image, but ``None``, a list or another thing.
            ModelOutputError: the graph fails, or returns what is no attention, no features or no scores.
        """
        decoded = decode(one_image(image))
        preprocessing = self.card.preprocessing
        with as_model_output_error(self._path):
            found = self._engine.run(preprocess(decoded, preprocessing)[None])
        scores = scores_of(next(iter(found.values())), 1, self.card, self._path)[0]
        self._check(found)
        return Explanation(
            source=describe(image),
            image=decoded,
            region=kept_region(decoded.width, decoded.height, preprocessing),
            predictions=task_of(self.card).predictions(scores, self.card, top_k),
            classes=self.card.classes,
            attention={
                place: _on_grid(found[name][0], preprocessing.image_size)
                for place, name in self._tensors.attention.items()
            },
            features=found[self._tensors.features][0],
            class_weights=_of_last_map(found[self._tensors.class_weights], found[self._tensors.features]),
        )

    def _check(self, found: dict[str, np.ndarray]) -> None:
        """Raises: ModelOutputError: a tensor is not what its name says."""
        tensors, classes = self._tensors, len(self.card.classes)
        features = check_rows(found[tensors.features], 1, self._path, tensors.features)
        weights = check_rows(found[tensors.class_weights], classes, self._path, tensors.class_weights)
        shapes = {
            tensors.features: features.ndim == 4,
            tensors.class_weights: weights.ndim == 2
            and _of_last_map(weights, features).shape == (classes, features.shape[1]),
        }
        for name in tensors.attention.values():
            attention = check_rows(found[name], 1, self._path, name)
            tokens = math.prod(_grid(attention.shape[-1], self.card.preprocessing.image_size))
            shapes[name] = attention.ndim in (3, 4) and attention.shape[-2:] == (tokens, tokens)
        for name, sound in shapes.items():
            if not sound:
                raise ModelOutputError(f"{self._path}: the graph returned {name} of shape {found[name].shape}")


@dataclass(frozen=True)
class Tensors:
    """Names of the tensors in a graph that explanations are made of."""

    attention: dict[tuple[int, int], str]
    """By stage and block, from 1: ``(N, tokens, tokens)``, or ``(N, heads, tokens, tokens)``."""
    features: str
    """``(N, C, rows, columns)``."""
    class_weights: str
    """``(classes, C)``."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.attention.values(), self.features, self.class_weights)


def find_tensors(path: Path) -> Tensors:
    """Looks for them in an ONNX file.

    The export names nodes like the network's modules, and quantising keeps softmax and the head in float32. What reads
    a tensor is looked up rather than the tensor itself: in an int8 graph it has rounding in between.

    Raises:
        ModelFileError: the graph does not name them; ``shvit export`` has not written it.
        ValueError: it is no ONNX file.
        OSError: it cannot be read.
    """
    nodes = read_nodes(path.read_bytes())
    attention: dict[tuple[int, int], str] = {}
    found: dict[str, str] = {}
    for node in nodes:
        output = node.outputs[0] if node.outputs else ""
        if node.kind == "Softmax" and (match := _WEIGHTS.fullmatch(output)):
            attention[int(match[1]) + 1, int(match[2]) + 1] = output
        elif node.kind == "GlobalAveragePool" and output == "head.pool":
            found["features"] = node.inputs[0]
        elif node.kind == "Gemm" and output == "logits" and len(node.inputs) > 1:
            found["class_weights"] = node.inputs[1]
    if len(found) < 2:
        raise ModelFileError(
            f"{path}: the graph does not name what explanations need; this version's export does: write the file again "
            "with: shvit export"
        )
    return Tensors(attention, **found)


def _of_last_map(class_weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Of a head that reads several stages' features, the weights of the last stage's, which come last."""
    return class_weights[:, -features.shape[1] :]


def _on_grid(weights: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """``(tokens, tokens)``, or ``(heads, tokens, tokens)``, to ``(rows, columns, rows, columns)``."""
    if weights.ndim == 3:
        weights = weights.mean(0)
    rows, columns = _grid(len(weights), image_size)
    return weights.reshape(rows, columns, rows, columns)


def _grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a feature map of so many tokens: the image's sides, halved several times and rounded up."""
    rows, columns = image_size
    while rows * columns > max(tokens, 1):
        rows, columns = -(-rows // 2), -(-columns // 2)
    return rows, columns

"""Engines that give a network's features beside its scores, of every format; the file stays as it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from shvit.engines import Engine, load_engine
from shvit.engines.base import FILE_ENGINES, as_model_file_error
from shvit.engines.onnx_graph import check_file, feature_map, pooled_features
from shvit.errors import ModelFileError
from shvit.modelfile.program import FEATURES


def load_with_features(
    engine: str, path: Path, threads: int | None = None, stages: int = 1
) -> tuple[Engine, tuple[str, ...]]:
    """Loads a model file so that its engine's ``run`` also returns features.

    Args:
        engine: which one, by name; not ``auto``.
        threads: as for ``load_engine``.
        stages: 1, or 2 for the features of the stage before the last one too, which only ONNX files give.

    Returns:
        The engine, and the names of the outputs with features. The last is that of the pooled ones, ``float32 (N,
        channels)``; before it, of two stages, stands the output of the earlier stage, ``float32 (N, channels, rows,
        columns)``.

    Raises:
        ModelFileError: the file cannot be used, or has no such features.
        MissingDependencyError: the engine, or what reads the format, is not installed.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    if path.suffix.lower() in FILE_ENGINES:
        if stages > 1:
            raise ModelFileError(
                f"{path}: features of the last two stages are taken from ONNX files only, not {path.suffix}; make one "
                "with: shvit export"
            )
        return _load_aside(engine, path, threads)
    with as_model_file_error(path, engine):
        names = _onnx_names(path, stages)
    return load_engine(engine, path, threads, names), names


def _onnx_names(path: Path, stages: int) -> tuple[str, ...]:
    check_file(path)
    model = path.read_bytes()
    pooled = pooled_features(model)
    if pooled is None:
        raise ModelFileError(f"{path}: no head that embeddings could be taken before; expected ONNX of shvit export")
    if stages == 1:
        return (pooled,)
    earlier = feature_map(model)
    if earlier is None:
        raise ModelFileError(
            f"{path}: the graph does not name its stages, so there are no features of the last two; write the file "
            "again with: shvit export"
        )
    return earlier, pooled


def _load_aside(engine: str, path: Path, threads: int | None) -> tuple[Engine, tuple[str, ...]]:
    """By a copy with one output more, which is gone when it is loaded."""
    if FILE_ENGINES[path.suffix.lower()] != engine:
        load_engine(engine, path, threads)  # which refuses it
    with tempfile.TemporaryDirectory(prefix="shvit-") as folder:
        aside = Path(folder) / f"with-features{path.suffix}"
        if engine == "litert":
            from shvit.modelfile import finished_litert

            aside.write_bytes(finished_litert.with_features(path.read_bytes(), FEATURES, path))
        else:
            from shvit.modelfile import finished_openvino

            model = finished_openvino.read(path)
            finished_openvino.add_features(model, FEATURES, path)
            finished_openvino.save(model, aside)
        try:
            loaded = load_engine(engine, aside, threads)
        except ModelFileError as error:
            raise ModelFileError(str(error).replace(str(aside), str(path))) from None
    if engine == "litert":
        from shvit.engines.litert import read_metadata

        with as_model_file_error(path, engine):
            loaded.metadata = read_metadata(path)  # it is attached to the file, not in its graph
    return loaded, loaded.outputs[-1:]

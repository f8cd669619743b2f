"""What a file to export can be: its format, its precision, and what goes with what. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shvit.errors import ExportError
from shvit.modelfile.source import Precision
from shvit.web import MODEL

Format = Literal["onnx", "openvino", "coreml", "litert", "executorch", "torch", "aotinductor", "tensorrt", "web", "hub"]

HUB_MODEL = "shvit.onnx"
"""The model file in a folder for the Hugging Face Hub."""

HUB_FILES = (
    HUB_MODEL,
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "onnx/model.onnx",
    "onnx/model_fp16.onnx",
    "onnx/model_quantized.onnx",
)


@dataclass(frozen=True)
class FormatInfo:
    """What a format can be."""

    title: str
    suffix: str
    """Empty for a folder, which may have any name."""
    module: str
    """Below ``shvit``; its ``convert`` writes a file."""
    precisions: tuple[Precision, ...]
    """Supported; the first is the default."""
    fixed_batch: bool = False
    """A file takes a number of images that is decided at export."""
    inside: str = ""
    """Where the model file is in a folder, for a format that is one."""
    dynamic_size: bool = False
    """A file may take images of any height and width."""
    companions: tuple[str, ...] = ()
    """Suffixes of what is written beside the file."""
    is_folder: bool = False
    """What is written is a folder, in place of an earlier one."""
    files: tuple[str, ...] = ()
    """All that may be in a folder that is replaced; when not given, its own kind knows it otherwise."""


FORMATS: dict[str, FormatInfo] = {
    "onnx": FormatInfo("ONNX", ".onnx", "modelfile.onnx", ("fp16", "fp32", "int8"), dynamic_size=True),
    "openvino": FormatInfo(
        "OpenVINO IR", ".xml", "modelfile.openvino", ("fp16", "fp32", "int8"), dynamic_size=True, companions=(".bin",)
    ),
    "coreml": FormatInfo("Core ML", ".mlpackage", "exporting.coreml", ("fp16", "fp32"), is_folder=True),
    "litert": FormatInfo("LiteRT", ".tflite", "exporting.litert", ("fp32", "fp16", "int8"), fixed_batch=True),
    "executorch": FormatInfo(
        "ExecuTorch", ".pte", "exporting.executorch", ("fp32",), fixed_batch=True, companions=(".card.json",)
    ),
    "torch": FormatInfo("torch.export", ".pt2", "exporting.torch_export", ("fp32",)),
    "aotinductor": FormatInfo("AOTInductor", ".pt2", "exporting.aotinductor", ("fp32",)),
    "tensorrt": FormatInfo(
        "TensorRT", ".engine", "exporting.tensorrt", ("fp16", "fp32"), fixed_batch=True, companions=(".card.json",)
    ),
    "web": FormatInfo("web", "", "exporting.web", ("fp16", "fp32", "int8"), inside=MODEL, is_folder=True),
    "hub": FormatInfo(
        "Hugging Face",
        "",
        "exporting.hub_folder",
        ("fp16", "fp32", "int8"),
        inside=HUB_MODEL,
        is_folder=True,
        files=HUB_FILES,
    ),
}


@dataclass(frozen=True)
class FileOptions:
    """What kind of file to write."""

    format: Format = "onnx"
    precision: Precision | None = None
    """Of stored weights; with int8, and in Core ML and TensorRT, of arithmetic too. The format's first in ``FORMATS``
    when not given."""
    batch_size: int | None = None
    """Images that the file takes at once, for a format that fixes them; 1 when not given."""
    dynamic_size: bool = False
    """The file takes images of any height and width, in ONNX and OpenVINO; the card's size is the default. It is
    verified at two other sizes as well."""
    repository: str | None = None
    """On the Hugging Face Hub, ``user/name``, for the examples in a folder of format hub."""


def check_combination(options: FileOptions, path: Path) -> Precision:
    """The precision to export with.

    Raises:
        ExportError: there is no such format, or it does not go with the rest.
    """
    if options.format not in FORMATS:
        raise ExportError(f"format {options.format}: expected one of {', '.join(FORMATS)}")
    info = FORMATS[options.format]
    precision = options.precision or info.precisions[0]
    if precision not in info.precisions:
        supported = ", ".join(sorted(info.precisions))
        raise ExportError(f"{path}: {info.title} is exported as {supported}, not as {precision}")
    if info.files:
        _check_replaceable(path, info.files)
    elif not info.suffix:
        from shvit.web.site import check_replaceable  # here, because it loads an engine

        check_replaceable(path)
    elif path.suffix != info.suffix:
        wanted = [name for name, each in FORMATS.items() if each.suffix and each.suffix == path.suffix]
        hint = f"; {path.suffix} files are those of format {' or '.join(wanted)}" if wanted else ""
        raise ExportError(f"{path}: {info.title} files are named {info.suffix}, such as {path.stem}{info.suffix}{hint}")
    if options.batch_size is not None and not info.fixed_batch:
        taken = "one image" if options.format == "coreml" else "batches of any size"
        raise ExportError(f"{path}: batch_size {options.batch_size}: {info.title} files take {taken}; leave it out")
    if options.dynamic_size and not info.dynamic_size:
        able = " or ".join(each.title for each in FORMATS.values() if each.dynamic_size)
        raise ExportError(f"{path}: a {info.title} file takes one image size; for any size export to {able}")
    return precision


def _check_replaceable(path: Path, files: tuple[str, ...]) -> None:
    """Raises: ExportError: it has no name of its own, or is a file, or a folder with anything else in it."""
    if not path.name:
        raise ExportError(f"{path}: expected the name of a folder that may be replaced, such as mine")
    if path.exists() and not path.is_dir():
        raise ExportError(f"{path}: is no folder; expected the name of a new one, or an earlier export")
    own = {*files, *(Path(each).parent.as_posix() for each in files)}
    for each in path.rglob("*") if path.is_dir() else ():
        if (name := each.relative_to(path).as_posix()) not in own:
            raise ExportError(
                f"{path}: is a folder with other things in it, such as {name}; give a new one, or an earlier export"
            )

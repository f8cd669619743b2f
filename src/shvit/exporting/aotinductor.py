"""AOTInductor: a ``.pt2`` package of machine code, compiled for the processor that it is made on."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch

from shvit.card import METADATA_KEY, Card
from shvit.errors import MissingDependencyError
from shvit.exporting.torch_export import export_program
from shvit.modelfile.source import Infer, Source
from shvit.modelfile.verify import Written, quiet, with_version


def convert(source: Source, path: Path) -> Written:
    """Compiles the program, which takes a minute or more and a C++ compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise MissingDependencyError("AOTInductor needs a C++ compiler: apt install g++")
    program = export_program(source)
    with quiet():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    compiled = path.read_bytes()

    def seal(card: Card) -> None:
        path.write_bytes(compiled)
        with zipfile.ZipFile(path, "a") as archive:
            # Where torch.export.save puts extra files.
            folder = archive.namelist()[0].split("/")[0]
            archive.writestr(f"{folder}/extra/{METADATA_KEY}", card.to_json())

    return Written(seal, lambda: load_package(path), with_version("torch"))


def load_package(path: Path) -> Infer:
    """Loads a package. It is machine code: only from whom one trusts."""
    with quiet():
        compiled = torch._inductor.aoti_load_package(str(path))

    @torch.inference_mode()
    def infer(images: np.ndarray) -> np.ndarray:
        return compiled(torch.from_numpy(images)).numpy()

    return infer

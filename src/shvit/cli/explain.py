"""Show where a model looks: its attention, and what speaks for a class, laid over the pictures."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.atomic import atomic_path, free_name
from shvit.cli.arguments import add_model, check_folder_name, check_not_read, positive
from shvit.display import json_text, notice, say
from shvit.errors import ArgumentError, ImageError, ModelOutputError
from shvit.images.sources import SourceError, expand_sources

if TYPE_CHECKING:
    from PIL import Image

    from shvit.card import ClassInfo
    from shvit.drawing.overlay import Map
    from shvit.predicting.explain import Explanation

EPILOG = """\
examples:
  shvit explain photo.jpg                                  a sheet: the picture, attention of stages 2 and 3, the class
  shvit explain photo.jpg --point 320,200                  what the token at that pixel attends to
  shvit explain photo.jpg --kind attention --stage 2 --block 1 --token 0,3
  shvit explain photos/ --kind cam --class 'sports car'    what speaks for that class
  shvit explain photo.jpg --format npz                     all maps as numbers

The maps and what they do not say: docs/explain.md.
exit status: 0 all fine, 1 some inputs failed (the others are done), 2 wrong usage
"""


def pair(text: str) -> tuple[int, int]:
    try:
        first, second = (int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two whole numbers such as 3,5, got {text!r}") from None
    return first, second


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {text}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="IMAGE", help="file, folder, glob, or - for paths on stdin")
    add_model(parser)
    parser.add_argument("--output", type=Path, default=Path("explained"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--kind",
        choices=("sheet", "attention", "cam"),
        default="sheet",
        help="all side by side, or one map over the whole picture and its scale below (default: sheet)",
    )
    parser.add_argument("--stage", type=positive, metavar="N", help="of the attention: 2 or 3 (default: 2)")
    parser.add_argument("--block", type=positive, metavar="N", help="of that stage, from 1 (default: the last)")
    asks = parser.add_mutually_exclusive_group()
    asks.add_argument(
        "--token", type=pair, metavar="ROW,COL", help="attention of this token of the stage, not the mean of all"
    )
    asks.add_argument("--point", type=pair, metavar="X,Y", help="attention of the token at this pixel of the picture")
    parser.add_argument(
        "--class", dest="label", metavar="CLASS", help="label, WordNet id or number (default: the first)"
    )
    parser.add_argument("--alpha", type=share, metavar="A", help="strength of the colours, 0 to 1 (default: 0.6)")
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "json", "npz"),
        default="png",
        help="pictures, or the maps as numbers: json has those that would be drawn, npz all (default: png)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="of the engine (default: all)")


def run(args: argparse.Namespace) -> int:
    check_folder_name("--output", args.output)
    from shvit.predicting.explain import Explainer

    explainer = Explainer(args.model, args.threads)
    class_id = None if args.label is None else find_class(args.label, explainer.card.classes)
    _check_place(explainer.blocks, args)
    check_not_read("--output", args.output, args.sources)
    args.output.mkdir(parents=True, exist_ok=True)
    sources = list(expand_sources(args.sources, sys.stdin, notice=notice))
    failed = 0
    for source in sources:
        try:
            if isinstance(source, SourceError):
                raise ImageError(str(source))
            explanation = explainer.explain(source)
            path = free_name(args.output, Path(source).stem, args.format)
            _write(path, explanation, class_id, args)
        except (ArgumentError, ImageError, ModelOutputError) as error:
            if isinstance(error, ImageError):
                say(f"error: {error}", sys.stderr)
            elif isinstance(error, ModelOutputError) or args.point is not None:  # outside of one is inside of the next
                say(f"error: {source}: {error}", sys.stderr)
            else:
                raise
            failed += 1
        else:
            best = explanation.predictions[0]
            say(f"{path}  {best.score:6.1%} {best.short_label}")
    if failed:
        say(f"{failed} of {len(sources)} inputs failed", sys.stderr)
    return 1 if failed else 0


def find_class(text: str, classes: Sequence[ClassInfo]) -> int:
    """A class by its number, its WordNet id, its label or one of the names that its label lists.

    Raises:
        ValueError: there is no such class, or several.
    """
    wanted = text.strip().casefold()
    if wanted.isdecimal() and int(wanted) < len(classes):
        return int(wanted)
    found = [each for each in classes if wanted in (each.label.casefold(), (each.wnid or "").casefold())]
    found = found or [each for each in classes if wanted in (name.strip().casefold() for name in each.label.split(","))]
    if len(found) != 1:
        several = ", ".join(f"{each.class_id} ({each.label})" for each in found)
        reason = f"is the name of several: {several}" if found else "the model has no such class; see: shvit info"
        raise ArgumentError(f"--class {text}: {reason}")
    return found[0].class_id


def _check_place(blocks: Sequence[tuple[int, int]], args: argparse.Namespace) -> None:
    """Refuses what no picture can have, before any is read."""
    stages = sorted({stage for stage, _ in blocks})
    if args.kind == "cam":
        for name in ("stage", "block", "token", "point"):
            if getattr(args, name) is not None:
                raise ArgumentError(f"--{name}: is for attention, not for --kind cam")
        return
    if args.kind == "attention" and not stages:
        raise ArgumentError(f"--kind attention: {args.model} has no attention")
    if args.stage is not None and args.stage not in stages:
        raise ArgumentError(f"--stage {args.stage}: the stages with attention are {', '.join(map(str, stages))}")
    if args.kind == "sheet" and args.block is not None and args.stage is None:
        raise ArgumentError("--block: needs --stage, because a sheet shows several")
    if args.kind == "sheet" and args.token is not None and args.stage is None:
        raise ArgumentError("--token: needs --stage, because a sheet shows several; --point names a pixel instead")


def _maps(explanation: Explanation, class_id: int | None, args: argparse.Namespace) -> list[Map]:
    from shvit.drawing.overlay import attention_map, class_activation_map

    stages = explanation.stages
    if args.stage is not None or args.kind == "attention":
        stages = (args.stage or stages[0],)
    point = args.point if args.token is None else explanation.center(stages[0], args.token)
    maps = []
    if args.kind != "cam":
        maps += [attention_map(explanation, stage, args.block, point) for stage in stages]
    if args.kind != "attention":
        maps.append(class_activation_map(explanation, class_id))
    return maps


def _write(path: Path, explanation: Explanation, class_id: int | None, args: argparse.Namespace) -> None:
    with atomic_path(path) as aside:
        if args.format == "npz":
            _write_arrays(aside, explanation, class_id)
        elif args.format == "json":
            values = _as_json(explanation, _maps(explanation, class_id, args))
            aside.write_text(json_text(values) + "\n", encoding="utf-8")
        else:
            picture = _draw(explanation, _maps(explanation, class_id, args), args)
            encoded = io.BytesIO()  # Pillow does not notice when a disk is full
            picture.save(encoded, {"png": "PNG", "jpg": "JPEG"}[args.format], quality=90)
            aside.write_bytes(encoded.getvalue())


def _draw(explanation: Explanation, maps: list[Map], args: argparse.Namespace) -> Image.Image:
    from shvit.drawing.overlay import ALPHA, draw_sheet, draw_with_scale

    alpha = ALPHA if args.alpha is None else args.alpha
    if args.kind == "sheet":
        return draw_sheet(explanation, maps, alpha)
    return draw_with_scale(explanation, maps[0], alpha)


def _as_json(explanation: Explanation, maps: list[Map]) -> dict[str, Any]:
    return {
        "source": explanation.source,
        "image_size": list(explanation.image.size),
        "region": list(explanation.region),
        "predictions": [each.to_dict() for each in explanation.predictions],
        "maps": [
            {
                "title": each.title,
                "detail": each.detail,
                "unit": each.unit,
                "token": each.token,
                "values": each.values.tolist(),
            }
            for each in maps
        ],
    }


def _write_arrays(path: Path, explanation: Explanation, class_id: int | None) -> None:
    import numpy as np

    arrays: dict[str, Any] = {
        f"attention_stage{stage}_block{block}": weights for (stage, block), weights in explanation.attention.items()
    }
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            region=np.array(explanation.region),
            class_activation=explanation.class_activation(class_id),
            class_id=np.array(explanation.predictions[0].class_id if class_id is None else class_id),
            **arrays,
        )

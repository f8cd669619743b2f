"""Give the features of images, by which alike ones are near each other, to a Parquet file; needs no PyTorch."""

from __future__ import annotations

import argparse
import sys

from shvit.cli.arguments import add_model, check_folder_name, pyarrow_wanted
from shvit.cli.collection import add_running, add_sources, common_settings, run_shown
from shvit.display import say

UNIT_SIZE = 256
"""Inputs in a part: so few that a thousand pictures keep several workers busy."""

EPILOG = """\
examples:
  shvit embed photos/ --output embeddings.parquet           a folder, all levels, on all cores
  shvit embed photos/ --model shvit_s4 --normalize --dtype float16 --output embeddings.parquet
  find . -name '*.jpg' | shvit embed - --output embeddings.parquet    paths on stdin
  shvit embed 'shards/*.tar' --output embeddings/           a folder of parts in place of one file
  shvit embed videos/ --fps 1 --output frames.parquet       a row a second of each video
  shvit embed s3://bucket/photos --output s3://bucket/embeddings.parquet --ray-address auto    on a Ray cluster

The same command again goes on where it was ended. While it runs, and afterwards if inputs failed, its parts are in a
folder beside the file, called like it with .parts; --retry-failed does over those in which an input failed. Read the
file with shvit.embeddings.table.read_embeddings, or anything that reads Parquet.

exit status: 0 all fine, 1 some inputs failed (the others are done), 2 wrong usage or it could not go on
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE|DIR",
        help="a file that ends with .parquet, or a folder or object store (s3://) for parts, made if missing",
    )
    add_model(parser)
    parser.add_argument("--normalize", action="store_true", help="each of length 1, for cosines")
    parser.add_argument(
        "--flip", action="store_true", help="the mean of each image's and its mirror image's, in twice the time"
    )
    parser.add_argument(
        "--stages",
        type=int,
        choices=(1, 2),
        default=1,
        help="of how many of the last stages: 1, what the head judges by, or 2, put one after the other (ONNX files)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="float16: half the room (default: float32)"
    )
    add_running(parser, UNIT_SIZE)


def run(args: argparse.Namespace) -> int:
    with pyarrow_wanted("teach"):
        from shvit.batch.embed import PARTS, SUFFIX, run_embed
        from shvit.batch.plan import BatchSettings
    from shvit.predicting.embeddings import EmbeddingOptions

    if not args.output.endswith(SUFFIX):
        check_folder_name("--output", args.output)
    options = EmbeddingOptions(args.normalize, args.flip, args.stages, args.dtype)
    settings = BatchSettings(**common_settings(args), embeddings=options)
    done = run_shown(args, "embedding", lambda *how: run_embed(settings, args.output, *how))
    if done.failed and args.output.endswith(SUFFIX):
        say(
            f"{args.output}{PARTS}: the parts, kept for --retry-failed; remove this folder if that is not wanted",
            sys.stderr,
        )
    return 1 if done.failed else 0

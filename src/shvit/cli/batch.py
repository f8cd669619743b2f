"""Classify whole collections of images to a folder of Parquet files, one row an input; needs no PyTorch."""

from __future__ import annotations

import argparse

from shvit.cli.arguments import add_answering, add_model, check_folder_name, pyarrow_wanted
from shvit.cli.collection import add_running, add_sources, common_settings, run_shown

EPILOG = """\
examples:
  shvit batch photos/ --output labels/                      a folder, all levels, on all cores
  shvit batch 'shards/*.tar' --output labels/               WebDataset shards
  shvit batch data/*.parquet --column image --output labels/
  shvit batch videos/ --fps 1 --output labels/              a row a second of each video
  shvit batch s3://bucket/photos --output s3://bucket/labels
  shvit batch s3://bucket/shards --output s3://bucket/labels --ray-address auto    on a Ray cluster

The same command again goes on where it was ended; with --retry-failed it also does over what failed. Read the rows with
anything that reads a folder of Parquet: pandas.read_parquet("labels/").

exit status: 0 all fine, 1 some inputs failed (the others are done), 2 wrong usage or it could not go on
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder or object store (s3://) for the parts, made if missing"
    )
    add_model(parser)
    add_answering(parser, "input")
    parser.add_argument("--embedding", action="store_true", help="also the pooled features before the head")
    add_running(parser, 1024)


def run(args: argparse.Namespace) -> int:
    check_folder_name("--output", args.output)
    with pyarrow_wanted("ray"):
        from shvit.batch.plan import BatchSettings
        from shvit.batch.run import run_batch

    settings = BatchSettings(
        **common_settings(args),
        top_k=args.top_k,
        min_score=args.min_score,
        unknown=not args.no_unknown,
        embedding=args.embedding,
    )
    done = run_shown(args, "classifying", lambda *how: run_batch(settings, args.output, *how))
    return 1 if done.failed else 0

"""Measure top-1 and top-5 on a labelled dataset, of a model file (no PyTorch in the loop) or a checkpoint."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

EPILOG = """\
examples:
  shvit eval --model mine.onnx --data data/
  shvit eval --model runs/mine/best.safetensors --data data/
  shvit eval --model mine.onnx --data data/ --engine openvino --threads 1 --format json

DATA as for `shvit train`; its validation split is used.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME|FILE", help="shipped model, model file or checkpoint")
    parser.add_argument("--data", required=True, metavar="DATA", help="dataset folder")
    parser.add_argument("--engine", default="auto", help="for a model file: auto, onnxruntime or openvino")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the engine (default: all)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--image-size", type=int, metavar="N", help="for a checkpoint: another input size")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="decoding processes (default: 2)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    from shvit.data import open_dataset
    from shvit.export.card import preprocessing_for
    from shvit.models.checkpoints import load_model
    from shvit.runtime.classifier import Classifier
    from shvit.train.evaluation import evaluate, evaluate_classifier

    images = open_dataset(args.data, "val")
    started = time.perf_counter()
    if Path(args.model).suffix in (".safetensors", ".pth", ".pt"):
        model, checkpoint = load_model(args.model)
        preprocessing = preprocessing_for(model, checkpoint, args.image_size)
        result = evaluate(model, images, preprocessing, args.batch_size, args.workers)
    else:
        classifier = Classifier(args.model, args.engine, args.threads)
        result = evaluate_classifier(classifier, images, args.batch_size, args.workers)
    seconds = time.perf_counter() - started
    figures = {
        "model": args.model,
        "data": args.data,
        "images": result.images,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "images_per_second": result.images / seconds,
    }
    if args.format == "json":
        print(json.dumps(figures, indent=2))
    else:
        print(f"{args.model} on {result.images:,} images of {args.data}")
        print(f"  top-1 {result.top1:.2%}   top-5 {result.top5:.2%}   cross-entropy {result.loss:.4f}")
        print(f"  {result.images / seconds:.0f} images/s, decoding included")
    return 0

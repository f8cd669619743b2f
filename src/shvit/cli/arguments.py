"""Options and values that several commands take."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


def add_csv_safe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--csv-safe",
        action="store_true",
        help="in CSV, put a ' before text that a spreadsheet would take for a formula (=, +, -, @, tab)",
    )

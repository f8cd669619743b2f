"""List the networks that have a name, published and shipped, with what is already here; free or update one."""

from __future__ import annotations

import argparse
from typing import Any

from shvit.display import json_text, print_table, say
from shvit.errors import ArgumentError
from shvit.hub.cached import find_cached, known_addresses
from shvit.hub.convert import converted_folder
from shvit.hub.names import MEASURED_BY, PUBLISHED, Reference, parse_reference
from shvit.predicting.classifier import Classifier
from shvit.shipped import SHIPPED_MODELS

EPILOG = """\
examples:
  shvit models
  shvit models --format json
  shvit models --update shvit_s4                # what is newer on the hub; nothing else asks for it
  shvit models --remove hf://user/repository    # its files, out of the hub's cache and ours

Weights: "hub" are the published ones, on the Hugging Face Hub (top-1 on ImageNet's 50,000 validation images, as timm
measured it on them); "shipped" come inside this package. Size is that of the file; "here" says which commit of it was
fetched.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--update", metavar="NAME", help="fetch what is newer of a published network")
    action.add_argument("--remove", metavar="NAME", help="remove what is here of a published network")


def rows() -> list[dict[str, Any]]:
    """What has a name: the published variants, what is shipped, and addresses of which something is here."""
    return [
        *map(_published, PUBLISHED),
        *map(_shipped, SHIPPED_MODELS),
        *filter(None, map(_fetched, known_addresses())),
    ]


def _published(name: str) -> dict[str, Any]:
    published, reference = PUBLISHED[name], Reference(name, PUBLISHED[name].repository)
    return {
        "name": name,
        "parameters": published.parameters,
        "macs": published.macs,
        "input": published.image_size,
        "top1": published.top1,
        "top1_by": MEASURED_BY,
        "data": "ImageNet-1k",
        "weights": "hub",
        "repository": published.repository,
        "bytes": published.weights_bytes,
        "commit": _commit(reference),
    }


def _shipped(name: str) -> dict[str, Any]:
    card = Classifier(SHIPPED_MODELS[name], threads=1).card
    top1 = next((metric.value * 100 for metric in card.metrics if metric.name == "top1"), None)
    return {
        "name": name,
        "parameters": card.parameters,
        "macs": card.macs,
        "input": card.preprocessing.image_size[0],
        "top1": top1,
        "top1_by": "shvit" if top1 is not None else None,
        "data": card.training_data,
        "weights": "shipped",
        "repository": None,
        "bytes": SHIPPED_MODELS[name].stat().st_size,
        "commit": None,
    }


def _fetched(reference: Reference) -> dict[str, Any] | None:
    found = find_cached(reference)
    if found is None or reference.published is not None:
        return None
    unknown = dict.fromkeys(("parameters", "macs", "input", "top1", "top1_by", "data"))
    return {
        "name": reference.name,
        **unknown,
        "weights": "hub",
        "repository": reference.repository,
        "bytes": found.file.stat().st_size,
        "commit": found.commit,
    }


def _commit(reference: Reference) -> str | None:
    """Of what is here."""
    found = find_cached(reference)
    return None if found is None else found.commit


def run(args: argparse.Namespace) -> int:
    if args.update is not None:
        return _update(_named("--update", args.update))
    if args.remove is not None:
        return _remove(_named("--remove", args.remove))
    if args.format == "json":
        print(json_text(rows(), indent=2))
        return 0
    listed = [
        (
            each["name"],
            (each["data"] or "").split(" (")[0].split(",")[0],
            _millions(each["parameters"], 1),
            _millions(each["macs"], 0),
            f"{each['input']}²" if each["input"] else "",
            f"{each['top1']:.1f}" if each["top1"] is not None else "",
            each["top1_by"] or "",
            _megabytes(each["bytes"]),
            each["weights"],
            each["commit"][:7] if each["commit"] else ("yes" if each["weights"] == "shipped" else "no"),
        )
        for each in rows()
    ]
    header = ("name", "data", "parameters", "MACs", "input", "top-1", "by", "size", "weights", "here")
    print_table(header, listed, "llrrrrlrll")
    return 0


def _millions(count: int | None, digits: int) -> str:
    return "" if count is None else f"{count / 1e6:.{digits}f} M"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _named(option: str, text: str) -> Reference:
    reference = parse_reference(text)
    if reference is None:
        why = "comes inside this package" if text in SHIPPED_MODELS else "is no network's name"
        raise ArgumentError(f"{option} {text}: {why}; expected {', '.join(PUBLISHED)} or hf://user/repository")
    return reference


def _update(reference: Reference) -> int:
    from shvit.hub.fetch import fetch

    earlier = _commit(reference)
    fetched = fetch(reference, update=True)
    if earlier == fetched.commit:
        say(f"{reference.name}: is up to date: commit {fetched.commit[:7]} of {reference.repository}")
        return 0
    was = f", was {earlier[:7]}" if earlier else ""
    size = _megabytes(fetched.file.stat().st_size)
    say(f"{reference.name}: fetched commit {fetched.commit[:7]} of {reference.repository}{was} ({size})")
    return 0


def _remove(reference: Reference) -> int:
    from shvit.hub.removal import remove

    freed = remove(reference, further=[converted_folder(reference)])
    say(f"{reference.name}: removed, {_megabytes(freed)} are free" if freed else f"{reference.name}: nothing was here")
    return 0

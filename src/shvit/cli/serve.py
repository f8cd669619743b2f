"""Serve model files over HTTP: images in, labels out; needs no PyTorch."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from shvit.cli.arguments import MODELS, positive, seconds
from shvit.engines import ENGINES
from shvit.errors import ArgumentError
from shvit.reading import read_text
from shvit.serve.settings import Settings
from shvit.shipped import DEFAULT_MODEL

TOKEN_VARIABLE = "SHVIT_TOKEN"
"""Environment variable with the token that requests must carry."""

EPILOG = f"""\
examples:
  shvit serve                                          the shipped model on http://127.0.0.1:8000
  shvit serve --model mine.onnx --model other=b.onnx   several models; the first is the default
  shvit serve --teach                                  and teach new classes in the page
  shvit serve --host 0.0.0.0 --token-file token        for other machines, with a token
  {TOKEN_VARIABLE}=... shvit serve --host 0.0.0.0           the same from the environment
  curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg http://127.0.0.1:8000/v1/predict

exit status: 0 ended by SIGTERM or SIGINT, when all that was accepted is answered; 1 ended so, but something was still
open ten seconds after --timeout; 2 wrong usage
"""


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]MODEL",
        help=f"{MODELS}; again for more (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=8000, help="0 for a free one (default: %(default)s)")
    engine = parser.add_argument_group("running")
    engine.add_argument("--engine", choices=ENGINES, default=defaults.engine, help="default: %(default)s")
    engine.add_argument("--threads", type=positive, metavar="N", help="of the engine, and that decode (default: all)")
    engine.add_argument(
        "--batch-size",
        type=positive,
        default=defaults.batch_size,
        metavar="N",
        help="images run together at most (default: %(default)s)",
    )
    engine.add_argument(
        "--max-delay-ms",
        type=float,
        default=defaults.max_delay_ms,
        metavar="MS",
        help="how long a decoded image waits for others that are on their way (default: %(default)s)",
    )
    engine.add_argument(
        "--fast-decode",
        action="store_true",
        help="decode and resize to nearly the same pixels in about half the time (needs the extra fast)",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--queue",
        type=positive,
        default=defaults.queue,
        metavar="N",
        help="images accepted and not yet answered; above it: 503 (default: %(default)s)",
    )
    limits.add_argument(
        "--timeout",
        type=seconds,
        default=defaults.timeout,
        metavar="S",
        help="seconds that an upload may take; above it: 408 (default: %(default)s)",
    )
    limits.add_argument(
        "--decode-timeout",
        type=seconds,
        default=defaults.decode_timeout,
        metavar="S",
        help="seconds that decoding or explaining an image may take; above it: 422 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-body",
        type=positive,
        default=defaults.max_body,
        metavar="BYTES",
        help="of one request; above it: 413 (default: %(default)s)",
    )
    access = parser.add_argument_group("access")
    access.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"holds the token that requests must carry; or the variable {TOKEN_VARIABLE} (default: none)",
    )
    access.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin call it from a browser; again for more (default: off)",
    )
    access.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients call it by, besides localhost and --host; * for any; not needed with a token",
    )
    access.add_argument("--ssl-certfile", type=Path, metavar="FILE", help="serve over TLS with this certificate (PEM)")
    access.add_argument("--ssl-keyfile", type=Path, metavar="FILE", help="and its key")
    access.add_argument("--root-path", default="", metavar="PATH", help="what a proxy in front takes off the path")
    access.add_argument("--no-access-log", action="store_true", help="do not log each request on stderr")
    access.add_argument(
        "--pages",
        type=Path,
        metavar="DIR",
        help="a folder of static files to show at / (default: a page to try it with)",
    )
    access.add_argument(
        "--teach",
        action="store_true",
        help="let the page teach new classes in the browser; gives out the model files (fetches ONNX Runtime Web once)",
    )


def run(args: argparse.Namespace) -> int:
    from shvit.serve.server import serve

    settings = Settings(
        engine=args.engine,
        threads=args.threads,
        batch_size=args.batch_size,
        max_delay_ms=args.max_delay_ms,
        queue=args.queue,
        decoding="fast" if args.fast_decode else "exact",
        timeout=args.timeout,
        decode_timeout=args.decode_timeout,
        max_body=args.max_body,
        token=_token(args.token_file),
        cors_origins=tuple(args.cors_origin),
        allowed_hosts=tuple(args.allowed_host),
        pages=args.pages,
        teach=args.teach,
    )
    answered_all = serve(
        args.model or [DEFAULT_MODEL],
        settings,
        args.host,
        args.port,
        args.ssl_certfile,
        args.ssl_keyfile,
        not args.no_access_log,
        args.root_path,
    )
    return 0 if answered_all else 1


def _token(file: Path | None) -> str | None:
    """Raises: ArgumentError: there is meant to be one, and it is empty or no text."""
    try:
        token = os.environ.get(TOKEN_VARIABLE) if file is None else read_text(file, 2**20).strip()
    except UnicodeDecodeError:
        raise ArgumentError(f"--token-file {file}: expected text, a token of printable ASCII characters") from None
    if token == "":
        raise ArgumentError(f"{file or TOKEN_VARIABLE}: expected a token, found nothing")
    return token

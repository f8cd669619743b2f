"""Fetching a published network's files from the hub, by its client and into its cache.

The client itself would wait for half a minute where there is no network, and tell of each retry. So a first request has
a few seconds in which to be answered, and only then are files fetched: what breaks off then goes on where it was, a
bounded number of times.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shvit.card import METADATA_KEY
from shvit.display import download_bar
from shvit.engines.onnx_graph import has_metadata
from shvit.hub.cached import (
    COMMIT,
    CONFIG,
    README,
    Fetched,
    Found,
    Wanted,
    choose_file,
    digest_of,
    expected_digest,
    find_cached,
    is_offline,
    keep,
    recall,
    take,
    wanted_of,
)
from shvit.hub.failures import INSTEAD, explained, failed, no_hub
from shvit.hub.names import Reference
from shvit.hub.repository_card import MAX_CONFIG_BYTES, MAX_README_BYTES

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

ANSWER_WITHIN = 3.5
"""Seconds for the hub's first answer, name look-up and all; HF_HUB_ETAG_TIMEOUT sets others."""

MAX_FILE_BYTES = 2 * 2**30
"""Of weights or a model file; SHViT-S4's have 67 MB."""

_TALKING = ("huggingface_hub.file_download", "huggingface_hub.utils._http")
"""Where the client logs each retry."""

_Answer = TypeVar("_Answer")


def fetch(reference: Reference, *, wanted: Wanted = "any", update: bool = False, progress: bool = True) -> Fetched:
    """The file of a published network: what is here, else what the hub has.

    What is here is used without asking whether there is newer, and without the client's import. Only the files that are
    needed are fetched. Nothing is ever half-written under its final name, and two processes that ask at the same time
    leave one file.

    Args:
        wanted: ``any``: a model file of ours (ONNX with a card) where the repository has one, else weights;
            ``weights``: weights.
        update: ask the hub, and fetch what is newer.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        HubError: it is not here and cannot be fetched, or is not what was promised; the message names the repository
            and says what to do. Where there is no network, within ``ANSWER_WITHIN`` seconds.
    """
    wanted = wanted_of(reference, wanted)
    if not update:
        remembered = recall(reference, wanted)
        if remembered is not None:
            return remembered
        found = find_cached(reference, wanted)
        if found is not None and not _is_ours(found):
            found = find_cached(reference, "weights")
        if found is not None:
            return take(reference, found, wanted)
    if is_offline():
        raise failed(reference, "HF_HUB_OFFLINE is set, so the hub is not asked", INSTEAD)
    return _download(reference, wanted, progress)


def _is_ours(found: Found) -> bool:
    return found.kind == "weights" or has_metadata(found.file, METADATA_KEY)


@dataclass(frozen=True)
class _Listed:
    """A revision's files as the hub lists them."""

    commit: str
    sizes: dict[str, int | None]
    digests: dict[str, str]
    """SHA-256 of large files."""


def _download(reference: Reference, wanted: Wanted, progress: bool) -> Fetched:
    with explained(reference), _quiet():
        for _ in range(2):  # what is listed and what is fetched are of one commit, but for a push in between
            listed = _list(reference)
            found = _download_listed(reference, listed, wanted, progress)
            if not _is_ours(found):
                if choose_file(listed.sizes, "weights") is None:
                    reason = f"{found.file.name} is no model file of shvit: it has no card"
                    raise failed(reference, reason, "expected one that shvit export wrote, or weights")
                found = _download_listed(reference, listed, "weights", progress)
            if found.commit == listed.commit:
                sha256 = _check_arrived(reference, found.file, listed.digests.get(found.file.name))
                return keep(reference, found, wanted, sha256)
        raise failed(reference, "it changed while it was fetched", "try again")


@contextmanager
def _quiet() -> Iterator[None]:
    """Has the client fetch by plain HTTP, and not tell of each retry.

    Its other protocol, Xet, has time-outs and retries of its own, for files a thousand times as large.
    """
    from huggingface_hub import constants

    def keep_waits(record: logging.LogRecord) -> bool:
        return record.getMessage().startswith("Rate limited")  # it waits for as long as the hub says

    loggers = [logging.getLogger(name) for name in _TALKING]
    xet = constants.HF_HUB_DISABLE_XET
    for each in loggers:
        each.addFilter(keep_waits)
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = xet
        for each in loggers:
            each.removeFilter(keep_waits)


def _list(reference: Reference) -> _Listed:
    from huggingface_hub import HfApi

    seconds = patience()
    api = HfApi(library_name="shvit")
    repository, revision = reference.repository, reference.revision
    try:
        info: ModelInfo = within(
            seconds,
            lambda: api.model_info(repository, revision=revision, files_metadata=True, timeout=seconds),
        )
    except (KeyError, TypeError, AttributeError):  # of JSON that is no listing
        raise no_hub(reference, api.endpoint, "no listing of a repository") from None
    if not COMMIT.fullmatch(str(info.sha)):
        raise no_hub(reference, api.endpoint, "a listing without a commit")
    files = info.siblings or []
    digests = {each.rfilename: each.lfs.sha256 for each in files if each.lfs is not None}
    return _Listed(str(info.sha), {each.rfilename: each.size for each in files}, digests)


def patience() -> float:
    from huggingface_hub import constants

    chosen = constants.HF_HUB_ETAG_TIMEOUT
    return ANSWER_WITHIN if chosen == constants.DEFAULT_ETAG_TIMEOUT else float(chosen)


def within(seconds: float, ask: Callable[[], _Answer]) -> _Answer:
    """What ``ask`` returns or raises, if it does so in time: to look a name up can take longer than any time-out says.

    Raises:
        TimeoutError: it did not; it is left to itself.
    """
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="shvit-hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]


def _download_listed(reference: Reference, listed: _Listed, wanted: Wanted, progress: bool) -> Found:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    chosen = choose_file(listed.sizes, wanted)
    if chosen is None:
        held = ", ".join(sorted(listed.sizes)[:5]) or "nothing"
        raise failed(
            reference,
            f"it has no {'weights' if wanted == 'weights' else 'model file and no weights'} that are known here",
            "expected model.safetensors, pytorch_model.bin"
            f"{'' if wanted == 'weights' else ' or one .onnx file that shvit export wrote'}; it holds {held}"[:300],
        )
    name, kind = chosen
    size = listed.sizes[name]
    if size is not None and size > MAX_FILE_BYTES:
        raise failed(
            reference,
            f"{name} has {size / 2**30:.1f} GiB, at most {MAX_FILE_BYTES / 2**30:.0f} GiB are accepted",
            "expected the weights of a SHViT",
        )
    # Where this fails, the client would go on asking for minutes.
    seconds = patience()
    url = hf_hub_url(reference.repository, name, revision=listed.commit)
    within(seconds, lambda: get_hf_file_metadata(url, token=None, timeout=seconds))
    options: dict[str, Any] = {"library_name": "shvit", "etag_timeout": seconds}
    for small, limit in ((CONFIG, MAX_CONFIG_BYTES), (README, MAX_README_BYTES)):
        if small in listed.sizes and (listed.sizes[small] or 0) <= limit:
            hf_hub_download(
                reference.repository, small, revision=listed.commit, tqdm_class=_bar_class(small, False), **options
            )
    bar = _bar_class(f"{reference.name}: {name}", progress)
    # By the revision's name: the client notes what it led to, for all programs that use its cache.
    file = Path(hf_hub_download(reference.repository, name, revision=reference.revision, tqdm_class=bar, **options))
    return Found(file, kind, file.parent.name)


def _check_arrived(reference: Reference, file: Path, listed: str | None) -> str:
    """Its SHA-256; the client compares sizes alone."""
    sha256, expected = digest_of(reference, file), listed or expected_digest(file)
    if expected not in (None, sha256):
        for each in (file, file.resolve()):
            each.unlink(missing_ok=True)
        raise failed(reference, f"{file.name} came with SHA-256 {sha256}, the hub lists {expected}", "try again")
    return sha256


def _bar_class(description: str, wanted: bool) -> Any:
    """What the client takes for ``tqdm``."""

    class Bar:
        def __init__(self, total: int | None = None, initial: int = 0, **options: object) -> None:
            self._stack = ExitStack()
            self._advance = self._stack.enter_context(download_bar(description, total, initial, wanted))

        def update(self, count: float | None = 1) -> None:
            self._advance(int(count or 0))

        def close(self) -> None:
            self._stack.close()

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

    return Bar

"""Publishing a folder on the hub: in one commit, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shvit.errors import ArgumentError, HubError, ShvitError
from shvit.hub.cached import MODELS, is_offline
from shvit.hub.fetch import patience, within
from shvit.hub.names import MAIN, PREFIX, Reference, parse_reference

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OTHERS = (".gitattributes", "README.md", "LICENSE")
"""What a repository may have of its own before the first push."""

_TOKENS = "make one with write access at https://huggingface.co/settings/tokens, then `hf auth login` or HF_TOKEN"


def check_push(repository: str) -> Reference:
    """What can be known before any work: the name is one, and there is a token.

    Raises:
        ArgumentError: it is no name of a repository.
        HubError: nothing can be pushed.
    """
    reference = parse_reference(f"{PREFIX}{repository.removeprefix(PREFIX)}")
    assert reference is not None  # with that prefix it is a name, or refused
    if reference.revision != MAIN:
        raise ArgumentError(f"--push {repository}: expected user/name, without a revision")
    from huggingface_hub import get_token

    if is_offline():
        raise _failed(reference, "HF_HUB_OFFLINE is set", "unset it")
    if get_token() is None:
        raise _failed(reference, "there is no token to sign in with", _TOKENS)
    return reference


def push_folder(folder: Path, repository: str, private: bool, files: Collection[str], progress: bool = True) -> str:
    """Makes a folder the contents of a repository, which is made where there is none.

    All is one commit: what breaks off before leaves the repository as it was, or empty.

    Args:
        folder: stays as it is, whatever comes of it.
        repository: ``user/name``. One that is there must be of an earlier push.
        private: of a new one, only those see it whom its owner lets.
        files: names of all that such a folder may hold; of the repository's files with these names, those that the
            folder has not are removed.
        progress: show bars on stderr.

    Returns:
        The repository's address.

    Raises:
        HubError: as said; the message names the repository and says what to do.
    """
    reference = check_push(repository)
    with _explained(reference, folder), _bars(progress):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi(library_name="shvit")
        name = reference.repository
        there, parent = _look(api, reference, private)
        if parent is None:
            api.create_repo(name, private=private)
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for each in sorted(files):
            if (folder / each).is_file():
                operations.append(CommitOperationAdd(each, folder / each))
            elif each in there:
                operations.append(CommitOperationDelete(each))
        api.create_commit(name, operations, commit_message="Exported by shvit", parent_commit=parent)
        return f"{api.endpoint}/{name}"


def _look(api: HfApi, reference: Reference, private: bool) -> tuple[set[str], str | None]:
    """The files of a repository and its last commit; ``None`` where there is none.

    Raises:
        HubError: it is of another kind, or seen by all and should not be.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    seconds = patience()
    try:
        info = within(seconds, lambda: api.model_info(reference.repository, timeout=seconds))
    except RepositoryNotFoundError:
        return set(), None
    there = {each.rfilename for each in info.siblings or []}
    if MODELS[0] not in there and not there.issubset(_OTHERS):
        held = ", ".join(sorted(there.difference(_OTHERS))[:5])
        raise _failed(reference, f"it is a repository with other things in it ({held})", "give a new name")
    if private and not info.private:
        raise _failed(reference, "it is there, and seen by all", "make it private in its settings first")
    return there, info.sha


def _failed(reference: Reference, reason: str, advice: str) -> HubError:
    return HubError(f"{reference.repository}: cannot be pushed: {reason}; {advice}")


@contextmanager
def _bars(wanted: bool) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if wanted or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _explained(reference: Reference, folder: Path) -> Iterator[None]:
    """Errors of the hub's client and of its HTTP library are each one ``HubError``."""
    try:
        yield
    except ShvitError:
        raise
    except Exception as error:  # which there are differs between versions of the client
        reason, advice = _explain(error)
        again = f"{folder} is written: hf upload {reference.repository} {folder} pushes it later"
        raise _failed(reference, reason, f"{advice}; {again}") from error


def _explain(error: Exception) -> tuple[str, str]:
    from huggingface_hub import constants, errors

    line = " ".join(str(error).split())[:200] or type(error).__name__
    if not isinstance(error, errors.HfHubHTTPError):
        return f"{constants.ENDPOINT} cannot be reached, or the connection broke off ({line})", "check the network"
    status = error.response.status_code
    if status == 401:
        return "the token of HF_TOKEN or `hf auth login` is refused", _TOKENS
    if status in (403, 404):
        return "the token that is used may not write there", f"check the name, and the token: {_TOKENS}"
    if status in (409, 412):
        return "it changed meanwhile", "look at it, and push again"
    if status == 429 or status >= 500:
        return f"the hub does not take it now (status {status})", "try again later"
    return f"the hub answers with status {status} ({line})", "check the folder and the name"

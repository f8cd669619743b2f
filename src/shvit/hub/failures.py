"""Why a network cannot be fetched: the client's errors as one line that names the repository and says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from shvit.errors import HubError, ShvitError
from shvit.hub.cached import hub_cache
from shvit.hub.names import Reference

INSTEAD = (
    "connect once, give a file instead, or set HF_ENDPOINT to a mirror or HF_HUB_CACHE to a cache that has it; the "
    "model that comes with shvit, shvit_s1_tiny_imagenet, needs no network"
)

_SIGN_IN = "sign in with `hf auth login`, or set HF_TOKEN"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2")
"""Libraries that the hub's client makes its requests with; which, depends on its version."""

_LATER = "try again later, or set HF_ENDPOINT to a mirror"


def no_hub(reference: Reference, endpoint: str, why: str) -> HubError:
    return failed(reference, *_no_hub(endpoint, why))


def _no_hub(endpoint: str, why: str) -> tuple[str, str]:
    return f"{endpoint} answers otherwise than a hub does ({why})", "check HF_ENDPOINT and the proxy"


def failed(reference: Reference, reason: str, advice: str) -> HubError:
    return HubError(f"{reference.repository}: cannot be fetched: {reason}; {advice}")


@contextmanager
def explained(reference: Reference) -> Iterator[None]:
    """Errors of the hub's client, of its HTTP library and of the disk are each one ``HubError``."""
    try:
        yield
    except ShvitError:
        raise
    except Exception as error:  # which there are differs between versions of the client
        reason, advice = _explain(reference, error)
        raise failed(reference, reason, advice) from error


def _explain(reference: Reference, error: Exception) -> tuple[str, str]:
    from huggingface_hub import constants, errors, get_token

    endpoint = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        page = f"{endpoint}/{reference.repository}"
        return "access to it has to be granted", f"ask for it on {page}, then {_SIGN_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {reference.revision}", "give a branch, a tag or a commit of it after the @"
    if isinstance(error, errors.RepositoryNotFoundError):
        advice = "the token that is used may not read it" if get_token() else f"for a private one {_SIGN_IN}"
        return "there is no such repository, or it is private", f"check the name; {advice}"
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _explain(reference, error.__cause__)
    if isinstance(error, errors.EntryNotFoundError):
        return "a file that it lists is not there", "try again later"
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error.response.status_code)
    if isinstance(error, errors.FileMetadataError):
        return _no_hub(endpoint, "a file without a commit or a digest")
    if isinstance(error, TimeoutError) or _is_of_client(error):
        if type(error).__name__ in ("RemoteProtocolError", "ReadError"):
            return f"the connection broke off again and again ({_line(error)})", "try again"
        what = "gives no answer" if "imeout" in type(error).__name__ else f"cannot be reached ({_line(error)})"
        return f"{endpoint} {what}", INSTEAD
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename or hub_cache()
        if error.errno in _FULL:
            return f"no room is left for it in {hub_cache()}", "free some, or name another folder in HF_HUB_CACHE"
        return f"{place}: {error.strerror}", "name a folder that can be written to in HF_HUB_CACHE"
    if isinstance(error, OSError) and "onsistency" in str(error):
        return "it came incomplete", "try again"
    if isinstance(error, ValueError):
        return _no_hub(endpoint, _line(error))
    return _line(error), INSTEAD


def _explain_status(status: int) -> tuple[str, str]:
    if status == 401:
        return "the token of HF_TOKEN or `hf auth login` is refused", "use a valid one, or none for what is public"
    if status == 403:
        return "the token that is used may not read it", f"{_SIGN_IN} with one that may"
    if status == 429:
        return "the hub answers no more requests for now (status 429)", f"wait some minutes, or {_SIGN_IN}"
    if status >= 500:
        return f"the hub has a fault (status {status})", _LATER
    return f"the hub answers with status {status}", _LATER


def _is_of_client(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _CLIENTS


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

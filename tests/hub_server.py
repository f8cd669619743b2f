"""A model hub on loopback, for any test: as much of the Hugging Face Hub's protocol as its client uses to fetch.

The client reads HF_ENDPOINT and its cache's folder when it is imported: what is tested against this server runs in
a process of its own, with ``hub.environment(home)``. ``publish`` takes a folder as a repository; timm writes one with
``write_timm_repository`` (the fixtures ``hub`` and ``timm_repository`` of ``tests/conftest.py``).

Large files lie, as the real hub's do, at another origin: ``resolve`` redirects there and tells their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".onnx")
"""Files that the hub keeps in Git LFS: their ETag is their SHA-256."""

README = """\
---
license: mit
library_name: timm
tags:
- image-classification
datasets:
- imagenet-1k
---
# Model card for {name}.in1k

A SHViT image classification model, with weights from a seed.
"""


@dataclass
class Fault:
    """What becomes of requests whose ``METHOD /path`` matches."""

    where: str
    status: int | None = None
    """Answered in place of what was asked for, with these headers."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of the body, then the connection is closed."""
    silent: bool = False
    """Never answered, or with ``cut_after`` not to its end."""
    times: int | None = None
    """How often; ``None``: always."""


class HubServer:
    """Counts in ``requests``, as ``GET /path``; those to the origin of large files as ``GET /lfs/...``."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.tokens: dict[str, str] = {}
        """Of private repositories: who comes without it is told that there is none."""
        self.gated: set[str] = set()
        """Repositories that are listed, and whose files nobody may have."""
        self.faults: list[Fault] = []
        self.pages: dict[str, bytes] = {}
        """Answers, by path, in place of what was published."""
        self._revisions: dict[str, dict[str, str]] = {}
        self._commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self._blobs: dict[str, bytes] = {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the base class's names

            def log_message(self, *args: object) -> None:
                pass

        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.endpoint, self._storage = (f"http://127.0.0.1:{each.server_port}" for each in self._servers)
        for server in self._servers:
            server.handle_error = lambda *args: None  # type: ignore[method-assign] - clients hang up
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def publish(self, repository: str, files: Path | dict[str, bytes], revision: str = "main") -> str:
        """Makes a folder's files, or these, what a revision of a repository holds; earlier commits stay.

        Returns:
            The commit: 40 hexadecimal digits, the same for the same files.
        """
        if isinstance(files, Path):
            paths = (each for each in sorted(files.rglob("*")) if each.is_file())
            files = {each.relative_to(files).as_posix(): each.read_bytes() for each in paths}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        commit = hashlib.sha1(json.dumps([repository, digests], sort_keys=True).encode()).hexdigest()
        self._commits[repository, commit] = dict(files)
        self._blobs.update((digests[name], data) for name, data in files.items() if name.endswith(LARGE))
        self._revisions.setdefault(repository, {})[revision] = commit
        return commit

    def environment(self, home: Path, **changes: str) -> dict[str, str]:
        """For processes that are to use this hub, with their caches in ``home`` and nobody's token."""
        own = {each for each in os.environ if each.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        variables = {name: value for name, value in os.environ.items() if name not in own}
        return {
            **variables,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "SHVIT_CACHE": str(home / "shvit"),
            "NO_PROXY": "127.0.0.1",
            **changes,
        }

    @contextmanager
    def fault(self, where: str, **fault: object) -> Iterator[None]:
        """While it lasts, requests that match the pattern have a ``Fault``."""
        added = Fault(where, **fault)  # type: ignore[arg-type]
        self.faults.append(added)
        try:
            yield
        finally:
            self.faults.remove(added)

    def _answer(self, request: Any) -> None:
        path = urlsplit(request.path).path
        request.body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        line = f"{request.command} {unquote(path)}"
        with self._lock:
            self.requests.append(line)
            fault = next((each for each in self.faults if each.times != 0 and re.search(each.where, line)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
        if fault is None:
            self._send(request, *self._found(request, path))
            return
        if fault.status is not None:
            self._send(request, fault.status, fault.headers)
        elif fault.cut_after is not None or not fault.silent:
            self._send(request, *self._found(request, path), cut_after=fault.cut_after)
        if fault.silent:
            self._stopped.wait()
            request.close_connection = True

    def _found(self, request: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        if path in self.pages:
            return 200, {}, self.pages[path]
        if stored := re.fullmatch("/lfs/([0-9a-f]{64})", path):
            data = self._blobs[stored[1]]
            if request.headers.get("Authorization"):
                return 400, {}, b"a token was sent to the storage"
            return 200, {"ETag": f'"{stored[1][:32]}"'}, data
        listed = re.fullmatch("/api/models/(.+)/revision/([^/]+)", path)
        file = re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        asked = listed or file
        if asked is None:
            return 404, {}, b""
        repository, revision = asked[1], unquote(asked[2])
        token = self.tokens.get(repository)
        given = request.headers.get("Authorization")
        if (
            given is not None
            and given != f"Bearer {token}"
            and given not in (f"Bearer {t}" for t in self.tokens.values())
        ):
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        if repository not in self._revisions or (token is not None and given != f"Bearer {token}"):
            # As the hub does: a stranger is not told whether there is one.
            return (404 if given else 401), {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Not found"}, b""
        commit = self._revisions[repository].get(revision, revision)
        files = self._commits.get((repository, commit))
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        if listed:
            answer = json.dumps(self._listing(repository, commit, files)).encode()
            return 200, {"Content-Type": "application/json"}, answer
        assert file is not None
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted"}, b""
        name, headers = unquote(file[3]), {"X-Repo-Commit": commit}
        if name not in files:
            return 404, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}, b""
        data = files[name]
        if not name.endswith(LARGE):
            return 200, {**headers, "ETag": f'"{_git_digest(data)}"'}, data
        digest = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        return 302, {**headers, **linked, "Location": f"{self._storage}/lfs/{digest}"}, b""

    def _listing(self, repository: str, commit: str, files: dict[str, bytes]) -> dict[str, object]:
        siblings: list[dict[str, object]] = []
        for name, data in files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _git_digest(data)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []}

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        data: bytes = b"",
        cut_after: int | None = None,
    ) -> None:
        if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))):
            start = int(wanted[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            status, data = 206, data[start:]
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data if cut_after is None else data[:cut_after])
            request.close_connection = request.close_connection or cut_after is not None


def _git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def write_timm_repository(folder: Path, name: str = "shvit_s1", seed: int = 0, **options: object) -> Path:
    """What timm publishes of a network: ``config.json`` and ``model.safetensors`` as it writes them, and a README.

    Args:
        options: of ``timm.create_model``, such as ``num_classes``.
    """
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    model = timm.create_model(name, **options)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var") or (key.endswith("weight") and tensor.dim() == 1):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
    save_for_hf(model, str(folder), safe_serialization=True)
    (folder / "README.md").write_text(README.format(name=name), encoding="utf-8")
    return folder

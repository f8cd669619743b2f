"""The hub on loopback with what an upload needs: a repository is made, large files stored, one commit names them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .hub_server import LARGE, HubServer

TOKEN = "hf_writes"
"""May write everything."""

READ_ONLY = "hf_reads"


class UploadHub(HubServer):
    """Keeps in ``commits``, for each, the repository and the names of what it added and removed."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = {"-": TOKEN, "--": READ_ONLY}
        self.private: set[str] = set()
        self.commits: list[tuple[str, list[str], list[str]]] = []

    def files(self, repository: str) -> dict[str, bytes]:
        """What its main revision holds; nothing where there is none."""
        commit = self._revisions.get(repository, {}).get("main", "")
        return self._commits.get((repository, commit), {})

    def environment(self, home: Path, **changes: str) -> dict[str, str]:
        """With a token that may write, and by plain HTTP: the other protocol's storage is not played here."""
        return super().environment(home, **{"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", **changes})

    def _found(self, request: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        if request.command in ("GET", "HEAD"):
            if named := re.fullmatch("/api/models/([^/]+/[^/]+)", path):
                status, headers, data = super()._found(request, f"{path}/revision/main")
                if status == 200:
                    data = json.dumps({**json.loads(data), "private": named[1] in self.private}).encode()
                return status, headers, data
            return super()._found(request, path)
        if stored := re.fullmatch("/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(request.body).hexdigest() == stored[1]
            self._blobs[stored[1]] = request.body
            return 200, {}, b""
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        given = request.headers.get("Authorization")
        if given not in (f"Bearer {TOKEN}", f"Bearer {READ_ONLY}"):
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        if given != f"Bearer {TOKEN}":
            return 403, {"X-Error-Message": "You don't have the rights to create or change it"}, b""
        return self._receive(path, request.body)

    def _receive(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.publish(name, {".gitattributes": b"*.onnx filter=lfs"})
            if wanted.get("visibility") == "private" or wanted.get("private"):
                self.private.add(name)
                self.tokens[name] = TOKEN
            return _json({"url": f"{self.endpoint}/{name}", "name": name})
        if re.fullmatch("/api/models/(.+)/preupload/main", path):
            files = [
                {"path": each["path"], "uploadMode": _mode(each["path"]), "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return _json({"files": files})
        if re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self._storage}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return _json({"transfer": "basic", "objects": objects})
        if committed := re.fullmatch("/api/models/(.+)/commit/main", path):
            return self._commit(unquote(committed[1]), [json.loads(line) for line in body.splitlines()])
        return 404, {}, b""

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, self._revisions[repository]["main"]):
            return 412, {"X-Error-Message": "A commit has happened since"}, b""
        files, added, removed = self.files(repository).copy(), [], []
        for kind, value in ((each["key"], each["value"]) for each in lines[1:]):
            if kind == "deletedFile":
                del files[value["path"]]
                removed.append(value["path"])
            else:
                large = kind == "lfsFile"
                files[value["path"]] = self._blobs[value["oid"]] if large else base64.b64decode(value["content"])
                added.append(value["path"])
        commit = self.publish(repository, files)
        self.commits.append((repository, sorted(added), removed))
        url = f"{self.endpoint}/{repository}/commit/{commit}"
        return _json({"success": True, "commitOid": commit, "commitUrl": url})


def _mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"


def _json(contents: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(contents).encode()

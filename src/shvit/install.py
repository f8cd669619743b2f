"""The command that installs what is missing, as it works for the way that shvit itself was installed.

Every command imports this and only errors call it: what it takes itself, it imports then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "shvit"
CONSTRAINTS = "constraints.txt"
"""In a checkout, the versions that it is tested with."""


def install_command(*extras: str) -> str:
    """Of extras of this package, such as ``video``, the command that installs them.

    A checkout is named by its path, an archive or a repository as it was given to pip: the package index need not
    know the package.
    """
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    url, editable = _origin()
    wanted = f"{NAME}[{','.join(extras)}]"
    path = Path(url2pathname(urlsplit(url).path)) if url is not None and url.startswith("file:") else None
    if path is not None and path.is_dir():
        arguments = [*(["-e"] if editable else []), f"{path}[{','.join(extras)}]"]
        if (path / CONSTRAINTS).is_file():
            arguments += ["-c", str(path / CONSTRAINTS)]
        return pip_install(*arguments)
    if url is None or (path is not None and not path.exists()):
        return pip_install(wanted)
    return pip_install(f"{wanted} @ {url}")


def pip_install(*arguments: str) -> str:
    """The command that has this very interpreter's pip install something, quoted for the shell."""
    import shlex
    import subprocess
    from importlib.machinery import PathFinder

    words = [sys.executable, "-m", "pip", "install"]
    # Not importlib.util.find_spec: setuptools takes it for the start of pip, and PyTorch cannot compile afterwards.
    if PathFinder.find_spec("pip") is None:  # as in environments that uv makes
        words = ["uv", "pip", "install", "--python", sys.executable]
    words += arguments
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _origin() -> tuple[str | None, bool]:
    """The URL that the package was installed from, as pip noted it (PEP 610), and whether it is editable.

    Of a package from an index there is none.
    """
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        noted = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
        url = noted.get("url")
        if version := noted.get("vcs_info"):
            url = f"{version['vcs']}+{url}@{version.get('requested_revision') or version['commit_id']}"
        if folder := noted.get("subdirectory"):
            url = f"{url}#subdirectory={folder}"
        return url, bool(noted.get("dir_info", {}).get("editable"))
    except PackageNotFoundError:  # run from a source tree
        root = Path(__file__).parents[2]
        return (root.as_uri(), True) if (root / "pyproject.toml").is_file() else (None, False)
    except (ValueError, KeyError, TypeError, AttributeError):  # a damaged note
        return None, False

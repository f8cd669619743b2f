"""Every step of the Dockerfile, tried without a container engine.

Debian with its Python stands in for the base image. The file itself is read, and each instruction is done as an engine
would: RUN in a chroot, the server as USER on a file system that cannot be written, in a network of its own,
and the health check beside it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..conftest import PATIENCE, ROOT, SAMPLES, make_debian

BASE = "python:3.11-slim"
PACKAGES = "python3.11,python3.11-venv,python3-distutils"
"""What Debian's minimal system lacks of the base image."""

LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
"""

INSIDE = """set -e
mount --bind "$ROOT" "$ROOT"
mount -o remount,ro,bind "$ROOT"
mount -t proc proc "$ROOT/proc"
"$PYTHON" -c "$LOOPBACK_UP"
exec chroot --userspec="$USERSPEC" "$ROOT" "$@"
"""

ASK = """
import json, sys, urllib.request
body = open("/image.jpg", "rb").read()
request = urllib.request.Request("http://127.0.0.1:8000/v1/predict", body, {"Content-Type": "image/jpeg"})
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""


@dataclass
class Stage:
    """What one FROM begins."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    folder: str = "/"
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """A Dockerfile's instructions and what follows them, continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def ignored(path: Path) -> bool:
    """Whether the .dockerignore keeps a file of the repository from the build: all but what it names with ``!``."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    return path.relative_to(ROOT).parts[0] not in kept


def build(text: str, new_root: Callable[[], Path], wheels: Path) -> Stage:
    """Does the instructions; gives the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(Path())
    for name, rest in instructions(text):
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            assert base == BASE
            stage = stages[alias or "last"] = Stage(new_root())
        elif name == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                stage.environment[key] = value.replace("$PATH", stage.environment["PATH"])
        elif name == "COPY":
            copy(rest, stage, stages)
        elif name == "RUN":
            run(rest, stage, wheels)
        elif name == "USER":
            stage.user = rest
        elif name == "HEALTHCHECK":
            stage.health = json.loads(rest.partition("CMD ")[2])
        elif name == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        else:
            assert name == "EXPOSE", f"{name}: an instruction that this test cannot try"
    return stage


def copy(rest: str, stage: Stage, stages: dict[str, Stage]) -> None:
    *sources, target = rest.split()
    origin = ROOT
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].root
    destination = stage.root / (Path(stage.folder) / target).as_posix().lstrip("/")
    for source in sources:
        path = origin / source.lstrip("/")
        if origin == ROOT:
            assert not ignored(path), f"{source}: .dockerignore leaves it out"
        if path.is_dir():
            shutil.copytree(
                path, destination, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            destination.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, destination)


def run(command: str, stage: Stage, wheels: Path) -> None:
    """As root, as long as no USER came; packages come from a folder, so that nothing needs a network."""
    assert stage.user == "0"
    (stage.root / "wheels").mkdir(exist_ok=True)
    environment = {**stage.environment, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "HOME": "/root"}
    inside = f'mount --bind "{wheels}" "{stage.root}/wheels" && mount -t proc proc "{stage.root}/proc" && exec "$@"'
    command = f"cd {stage.folder} && {command}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside, "sh", "chroot", str(stage.root), "/bin/sh", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"RUN {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    (stage.root / "wheels").rmdir()


@pytest.fixture(scope="module")
def debian(program, tmp_path_factory) -> Path:
    """A minimal Debian with Python, in place of the base image."""
    root = make_debian(program("debootstrap"), "bookworm", PACKAGES, tmp_path_factory.mktemp("debian") / "root")
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3.11")
    return root


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """What the image installs, as pip on this machine finds it, and what builds the project."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--constraint", str(ROOT / "constraints.txt"), f"{ROOT}[serve]", "hatchling"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_every_step_of_the_dockerfile(debian, wheels, program, tmp_path):
    if not sys.version.startswith("3.11"):
        pytest.skip("downloads packages for the image's Python, 3.11, with this one")

    def new_root() -> Path:
        root = tmp_path / f"stage{len(list(tmp_path.iterdir()))}"
        subprocess.run(["cp", "--archive", str(debian), str(root)], check=True)
        return root

    before = size(debian)
    image = build((ROOT / "Dockerfile").read_text(), new_root, wheels)
    assert image.user.isdigit() and image.user != "0"
    assert size(image.root) - before < 400e6
    installed = {path.name for path in (image.root / "opt/shvit/lib/python3.11/site-packages").iterdir()}
    assert "onnxruntime" in installed and not {"torch", "pip", "pytest"} & installed
    shutil.copy(SAMPLES / "coffee.jpg", image.root / "image.jpg")
    tmp_path.chmod(0o755)
    environment = {
        **image.environment,
        "ROOT": str(image.root),
        "USERSPEC": f"{image.user}:{image.user}",
        "PYTHON": sys.executable,
        "LOOPBACK_UP": LOOPBACK_UP,
    }
    host_path = {"PATH": f"{os.environ['PATH']}"}
    command = [program("unshare"), "--mount", "--net", "sh", "-c", INSIDE, "sh", "/usr/bin/env"]
    command += [f"PATH={image.environment['PATH']}", *image.entrypoint]
    server = subprocess.Popen(
        command, env={**environment, **host_path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until = time.monotonic() + PATIENCE
        while (health := beside(server, image, image.health)).returncode != 0:
            assert time.monotonic() < until and server.poll() is None, health.stderr + read(server)
            time.sleep(0.2)
        answer = beside(server, image, ["python", "-c", ASK])
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["results"][0]["predictions"][0]["label"] == "espresso"
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{server.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split()[0] == image.user
        assert beside(server, image, ["python", "-c", "open('/tmp/x', 'w')"]).returncode != 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert "Traceback" not in read(server)
        alone = ["unshare", "--net", "chroot", str(image.root), *image.health]
        assert subprocess.run(alone, env=image.environment, capture_output=True, timeout=20).returncode != 0
    finally:
        server.kill()
        server.wait()


def beside(server: subprocess.Popen[str], image: Stage, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command where the server runs, as its user."""
    enter = ["nsenter", "--target", str(server.pid), "--mount", "--net", "chroot"]
    enter += [f"--userspec={image.user}:{image.user}", str(image.root)]
    enter += ["/usr/bin/env", *(f"{key}={value}" for key, value in image.environment.items())]
    return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=30)


def read(server: subprocess.Popen[str]) -> str:
    """All that it wrote; it has ended."""
    assert server.stdout is not None
    return server.stdout.read() if server.poll() is not None else ""


def size(root: Path) -> int:
    return int(subprocess.run(["du", "-sbx", str(root)], capture_output=True, text=True, check=True).stdout.split()[0])

"""The command that hints name, for each way in which the package can have been installed."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shvit import install
from shvit.install import install_command, pip_install

PIP = [sys.executable, "-m", "pip", "install"]


@pytest.fixture
def noted(monkeypatch):
    """Lets pip have noted this when it installed the package."""

    class Installed:
        def __init__(self, note: object) -> None:
            self._note = note if isinstance(note, str | None) else json.dumps(note)

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return self._note

    return lambda note: monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed(note))


@pytest.mark.parametrize("editable", [True, False])
def test_a_checkout_is_named_by_its_path_with_the_versions_that_it_pins(noted, tmp_path, editable):
    folder = tmp_path / "my clone"
    folder.mkdir()
    noted({"url": folder.as_uri(), "dir_info": {"editable": editable}})
    expected = [*PIP, *(["-e"] if editable else []), f"{folder}[video]"]
    assert shlex.split(install_command("video")) == expected
    (folder / "constraints.txt").touch()
    assert shlex.split(install_command("video")) == [*expected, "-c", f"{folder}/constraints.txt"]


def test_an_archive_is_named_by_its_url(noted, tmp_path):
    wheel = tmp_path / "shvit-0.1.0-py3-none-any.whl"
    wheel.touch()
    noted({"url": wheel.as_uri(), "archive_info": {}})
    assert shlex.split(install_command("ray", "serve")) == [*PIP, f"shvit[ray,serve] @ {wheel.as_uri()}"]


@pytest.mark.parametrize(
    ("note", "wanted"),
    [
        (None, "shvit[video]"),  # from an index
        ("{", "shvit[video]"),
        ([], "shvit[video]"),
        ({"url": "file:///not/there/any/more", "dir_info": {}}, "shvit[video]"),
        ({"url": "https://host/shvit.whl", "archive_info": {}}, "shvit[video] @ https://host/shvit.whl"),
        (
            {"url": "https://host/shvit", "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "v1"}},
            "shvit[video] @ git+https://host/shvit@v1",
        ),
        (
            {"url": "ssh://host/all", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "shvit"},
            "shvit[video] @ git+ssh://host/all@abc#subdirectory=shvit",
        ),
    ],
)
def test_what_pip_noted_is_what_it_is_given_again(noted, note, wanted):
    noted(note)
    assert shlex.split(install_command("video")) == [*PIP, wanted]


def test_a_source_tree_that_was_never_installed_is_named_by_its_path(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    root = Path(install.__file__).parents[2]
    assert shlex.split(install_command("video"))[4:6] == ["-e", f"{root}[video]"]


def test_an_environment_without_pip_is_uvs(monkeypatch):
    monkeypatch.setattr("importlib.machinery.PathFinder.find_spec", lambda name: None)
    assert shlex.split(pip_install("av>=15")) == ["uv", "pip", "install", "--python", sys.executable, "av>=15"]


def test_no_hint_names_the_package_by_itself():
    """``pip install 'shvit[...]'`` works only where an index knows the package."""
    root = Path(install.__file__).parent
    for file in root.rglob("*.py"):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            assert "pip install 'shvit" not in line, f"{file.relative_to(root)}:{number}: use install_command"


def test_a_command_that_works_pays_nothing_for_it():
    heavy = {"json", "shlex", "subprocess", "urllib.request", "importlib.metadata"}
    code = f"import sys; before = set(sys.modules); import shvit.install; print({heavy!r} & set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"

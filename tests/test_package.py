"""The package's own names, in the light installation and in the full one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shvit.install import install_command

from .conftest import PATIENCE

ROOT = Path(__file__).parent.parent

LIGHT = "import sys; sys.modules['torch'] = sys.modules['httpx2'] = None\n"
"""Python that makes the full installation's names as hard to come by as in the light one."""

PYTORCH_ALONE = "import sys; sys.modules['timm'] = None\n"

LAB = {
    *("Execution", "Recipe", "create_model", "list_models", "load_checkpoint"),
    *("recipe_for", "reparameterize", "save_checkpoint", "train"),
}
"""What is not there without it."""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("before", [LIGHT, PYTORCH_ALONE, ""], ids=["light", "PyTorch alone", "full"])
def test_help_and_getmembers_show_what_can_be_had(before):
    done = run(
        f"{before}import inspect, io, pydoc, shvit\n"
        "names = [name for name, _ in inspect.getmembers(shvit)]\n"
        "assert names == dir(shvit)\n"
        "pydoc.Helper(output=(text := io.StringIO())).help(shvit)\n"
        "assert 'class Classifier' in text.getvalue()\n"
        "print(sorted(set(shvit.__all__) - set(names)))"
    )
    assert done.returncode == 0, done.stderr
    missing = {"": set(), PYTORCH_ALONE: LAB, LIGHT: {"AsyncClient", "Client", *LAB}}[before]
    assert done.stdout == f"{sorted(missing)}\n"


@pytest.mark.parametrize("code", ["from shvit import create_model", "import shvit; shvit.create_model('shvit_s1')"])
def test_what_needs_pytorch_says_so_when_it_is_asked_for(code):
    done = run(LIGHT + code)
    assert "MissingDependencyError: this needs PyTorch" in done.stderr
    assert install_command("torch") in done.stderr


def test_what_needs_more_than_pytorch_says_how_to_get_it():
    done = run(PYTORCH_ALONE + "import shvit; shvit.train")
    assert "MissingDependencyError: shvit.train needs timm, which is not installed" in done.stderr
    assert install_command("torch") in done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_no_module_is_named_in_gitignore():
    """The build leaves out of a wheel what git ignores, tracked or not: an editable installation does not show it."""
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*") if "__pycache__" not in path.parts]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        input="\n".join(files),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stdout + done.stderr

"""What all reports share: their template, and pictures and tables in them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

from shvit.errors import MissingDependencyError
from shvit.install import install_command

if TYPE_CHECKING:
    import jinja2

_PACKAGE = "shvit.evaluation"


def page_template(name: str, package: str = _PACKAGE, extra: str = "eval") -> jinja2.Template:
    """A page with the filters that pages have, and their style at hand.

    Args:
        package: whose folder it is in.
        extra: that installs what it needs.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a report is made with {error.name}, which is not installed; install it with: {install_command(extra)}"
        ) from None
    loaders = [jinja2.PackageLoader(each, ".") for each in (package, _PACKAGE)]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format}
    return environment.get_template(name)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def contained(image: Image.Image, side: int) -> Image.Image:
    """A picture scaled to fit a square of that many pixels, small ones enlarged; each side has a pixel or more."""
    scale = side / max(image.size)
    width, height = (max(round(each * scale), 1) for each in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

from __future__ import annotations

from ..exporting.conftest import tiny, tiny_card

__all__ = ["tiny", "tiny_card"]

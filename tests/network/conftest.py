from __future__ import annotations

from ..models.conftest import golden, golden_distilled_model, golden_model, tensor_names, variant

__all__ = ["golden", "golden_distilled_model", "golden_model", "tensor_names", "variant"]

"""Our networks on the Hugging Face Hub."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download

from shvit.atomic import write_text


class HubModel(PyTorchModelHubMixin):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` as Hub users know them.

    Weights go through ``shvit.models.checkpoints``, which tells what network a file is of by the file itself:
    timm's repositories load too, and a file that is not this network is refused. (The mixin's own reading takes
    ``config.json`` for the truth and skips tensors it does not know, which leaves random weights unnoticed.)
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        from shvit.models.checkpoints import save_checkpoint
        from shvit.models.shvit import SHViT

        assert isinstance(self, SHViT)
        save_checkpoint(self, save_directory / constants.SAFETENSORS_SINGLE_FILE)
        config = json.dumps(asdict(self.config), indent=2)
        write_text(config + "\n", save_directory / constants.CONFIG_NAME)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        strict: bool = True,
        config: Any = None,
        **download: Any,
    ) -> Any:
        """``config`` and ``strict`` are what Hub users may pass; the file decides, and is always checked."""
        from shvit.models.checkpoints import load_model

        file = Path(model_id) / constants.SAFETENSORS_SINGLE_FILE
        if not Path(model_id).is_dir():
            file = Path(hf_hub_download(model_id, constants.SAFETENSORS_SINGLE_FILE, **download))
        model, _ = load_model(file)
        return model.to(map_location)

"""Our networks on the Hugging Face Hub."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download

from shvit.atomic import write_text


class HubModel(PyTorchModelHubMixin):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` as Hub users know them.

    Weights go through ``shvit.models.checkpoints``, which tells what network a file is of by the file itself:
    timm's repositories load too, and a file that is not this network is refused. (The mixin's own reading takes
    ``config.json`` for the truth and skips tensors it does not know, which leaves random weights unnoticed.)
    """

    config: Any
    _read: ClassVar[Callable[..., Any]]
    """``load_model``, which ``checkpoints`` puts here: it needs the network, and the network is one of these."""
    _write: ClassVar[Callable[..., None]]
    """``save_checkpoint``."""

    def _save_pretrained(self, save_directory: Path) -> None:
        self._write(self, save_directory / constants.SAFETENSORS_SINGLE_FILE)
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
        file = Path(model_id) / constants.SAFETENSORS_SINGLE_FILE
        if not Path(model_id).is_dir():
            file = Path(hf_hub_download(model_id, constants.SAFETENSORS_SINGLE_FILE, **download))
        model, _ = cls._read(file)
        return model.to(map_location)

"""The model card of a repository on the Hugging Face Hub: README.md with the block of metadata that the hub reads.

A card's texts may be anybody's: in the block they are quoted by a YAML writer, in the text every sign that Markdown or
HTML could take for its own is a character reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shvit.card import Card, Metric, TaskName, Verification
from shvit.display import printable

ANY_REPOSITORY = "user/name"
"""In the examples, where it is not known yet."""

LICENCE = re.compile(
    r"mit|apache-2\.0|bsd|bsd-2-clause|bsd-3-clause(-clear)?|isc|zlib|unlicense|wtfpl|ncsa|postgresql|ms-pl|pddl|"
    r"a?gpl-3\.0|gpl-2\.0|lgpl-2\.1|lgpl-3\.0|mpl-2\.0|epl-[12]\.0|eupl-1\.[12]|osl-3\.0|afl-3\.0|artistic-2\.0|"
    r"bsl-1\.0|cc0-1\.0|cc-by-2\.[05]|cc-by(-nc)?(-sa)?-[34]\.0|cc-by-nd-4\.0|cc-by-nc-nd-[34]\.0|"
    r"cc-by-nc(-sa)?-2\.0|odbl|odc-by|cdla-sharing-1\.0|cdla-permissive-[12]\.0|etalab-2\.0|openrail|"
    r"bigscience-openrail-m|creativeml-openrail-m"
)
"""Identifiers of the hub for weights and software; what is none of them is ``other``, with a name."""

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)

_SHARES = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("accuracy", "Top-5 accuracy"),
    "map": ("mean_average_precision", "Mean average precision"),
    "f1": ("f1", "F1 from a score of 0.5 on, mean of the labels"),
}
"""Figures in [0, 1]: the hub's name of their kind, and what they are called."""


class _Words(NamedTuple):
    """What a README says of a task."""

    what: str
    timm: str
    """How to come from logits to labels."""
    choice: str
    """How transformers.js is asked for labels."""


_WORDS: dict[TaskName, _Words] = {
    "classification": _Words(
        "An image classifier: SHViT, the Single-Head Vision Transformer (CVPR 2024).",
        """scores = model(transform(Image.open("photo.jpg").convert("RGB"))[None]).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][scores.argmax()], scores.max().item())""",
        "{ top_k: 3 }",
    ),
    "multi_label": _Words(
        "A classifier of images that have any number of labels, each with a score of its own (a sigmoid): SHViT, the "
        "Single-Head Vision Transformer (CVPR 2024).",
        """scores = model(transform(Image.open("photo.jpg").convert("RGB"))[None]).sigmoid()[0]
print([(name, score.item()) for name, score in zip(model.pretrained_cfg["label_names"], scores) if score >= 0.5])""",
        "{ top_k: null }",
    ),
}

_FILES = {
    "model.safetensors": "weights in training form under timm's names, described by `config.json`: timm, transformers",
    "shvit.onnx": "the network folded, `uint8` images in, with its card: shvit, ONNX Runtime, OpenVINO",
    "onnx/model.onnx": "folded, normalised `pixel_values` in, float32: transformers.js",
    "onnx/model_fp16.onnx": "the same, weights stored in float16",
    "onnx/model_quantized.onnx": "the same in 8 bits",
}

_USE = """
## Use

shvit, without PyTorch:

```bash
shvit predict photo.jpg --model hf://{repository}
```

timm:

```python
import timm
from PIL import Image

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
{timm}
```

transformers:

```python
from transformers import pipeline

classify = pipeline("image-classification", model="{repository}")
print(classify("photo.jpg", top_k=3))
```

transformers.js, which has no name for this network: any other of its image classifiers runs the same file.

```js
import {{ AutoConfig, pipeline }} from "@huggingface/transformers";

const config = await AutoConfig.from_pretrained("{repository}");
config.model_type = "vit";
const classify = await pipeline("image-classification", "{repository}", {{ config, dtype: "{dtype}" }});
console.log(await classify("photo.jpg", {choice}));
```

## Preprocessing

{preprocessing}

## Citation

```bibtex
@inproceedings{{yun2024shvit,
  author={{Yun, Seokju and Ro, Youngmin}},
  title={{SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design}},
  booktitle={{CVPR}},
  year={{2024}}
}}
```
"""


def write_readme(card: Card, checked: Mapping[str, Verification], repository: str | None = None) -> str:
    """The text of README.md.

    Args:
        checked: how each ONNX file compares with the network, by the file's name.
        repository: on the hub, for the examples.
    """
    height, width = card.preprocessing.image_size
    facts = {
        "architecture": card.architecture,
        "input": f"RGB, {width}x{height} pixels",
        "classes": f"{len(card.classes):,}",
        "parameters for inference": None if card.parameters is None else f"{card.parameters / 1e6:.1f} M",
        "multiply-accumulates an image": None if card.macs is None else f"{card.macs / 1e6:,.0f} M",
        "trained on": card.training_data,
        "weights from": card.source,
        "trained from": None if card.trained_from is None else card.trained_from.repository,
        "licence": card.licence,
        "notes": card.notes,
        "made by": None if card.shvit_version is None else f"shvit {card.shvit_version}",
    }
    lines = [
        f"# {in_markdown(card.name)}",
        "",
        _WORDS[card.task].what,
        "",
        *_table(("", ""), [(name, in_markdown(value)) for name, value in facts.items() if value is not None]),
    ]
    if card.metrics:
        figures = [
            (in_markdown(each.name), _value(each), in_markdown(each.dataset), in_markdown(each.command or ""))
            for each in card.metrics
        ]
        lines += ["", "## Measured", "", *_table(("figure", "value", "on", "again with"), figures)]
    rows = [
        (f"`{name}`", text, _outcome(checked.get(name)))
        for name, text in _FILES.items()
        if name in checked or not name.endswith(".onnx")
    ]
    lines += ["", "## Files", "", *_table(("file", "what it is", "beside the network"), rows)]
    use = _USE.format(
        repository=repository or ANY_REPOSITORY,
        dtype="q8" if "onnx/model_quantized.onnx" in checked else "fp16",
        preprocessing=_preprocessing(card),
        timm=_WORDS[card.task].timm,
        choice=_WORDS[card.task].choice,
    )
    return f"---\n{_metadata(card)}---\n" + "\n".join(lines) + "\n" + use


def in_markdown(text: object) -> str:
    """A text on one line, with nothing in it that Markdown, HTML or the hub's formulas take for their own."""
    return re.sub(r"[^\w ,.()%+\-]", lambda found: f"&#{ord(found[0])};", printable(text)).replace("_", "&#95;")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _value(metric: Metric) -> str:
    return f"{metric.value:.2%}" if metric.name in _SHARES else f"{metric.value:g}"


def _outcome(verification: Verification | None) -> str:
    if verification is None or verification.max_difference is None or verification.top1_agreement is None:
        return ""
    return (
        f"same first label on {verification.top1_agreement:.1%} of {verification.images:,} images, largest difference "
        f"{verification.max_difference:.1e} of the largest logit"
    )


def _preprocessing(card: Card) -> str:
    found = card.preprocessing
    height, width = found.image_size
    if found.resize_mode == "squash":
        how = f"The image is resized to {width}x{height} pixels whatever its shape ({found.interpolation})."
    else:
        how = (
            f"The shorter side is resized to {int(height / found.crop_ratio)} pixels ({found.interpolation}), then the "
            f"central {width}x{height} pixels are cut out."
        )
    return (
        f"{how} shvit, timm and transformers prepare the same pixels. transformers.js resizes otherwise (sharp in "
        "Node, a canvas in browsers), so that its scores differ by some per cent and now and then a label."
    )


def _metadata(card: Card) -> str:
    """YAML, each line ended."""
    import yaml  # the hub's client needs it; 20 ms

    data: dict[str, Any] = {
        **licence_metadata(card.licence),
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "transformers", "transformers.js", "onnx", "shvit"],
    }
    if datasets := _datasets(card):
        data["datasets"] = datasets
    if (base := card.trained_from or card.weights) is not None and _REPOSITORY.fullmatch(base.repository):
        data["base_model"] = base.repository
    if results := _results(card):
        data["model-index"] = [{"name": printable(card.name), "results": results}]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10_000)


def licence_metadata(licence: str | None) -> dict[str, str]:
    """What the hub's metadata say of a licence; nothing where it is not known."""
    if licence is None or not licence.strip():
        return {}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.casefold()).strip("-.")
    plain = re.sub(r"^the-|-licen[cs]e|-version|-only$|-or-later$", "", name)
    for each in (name, plain, f"{plain}.0"):
        if LICENCE.fullmatch(each):
            return {"license": each}
    begin = re.sub(r"[^a-z0-9.]+", "-", re.split("[;:(]", licence.casefold())[0])
    return {"license": "other", "license_name": begin[:40].strip("-.") or "other"}


def _datasets(card: Card) -> list[str]:
    text = card.training_data or ""
    named = re.findall(rf"hf://({_REPOSITORY.pattern})", text, re.ASCII)
    return named + (["imagenet-1k"] if re.match(r"imagenet-1k\b", text, re.IGNORECASE) else [])


def _results(card: Card) -> list[dict[str, Any]]:
    by_dataset: dict[str, list[Metric]] = {}
    for each in card.metrics:
        if each.name in _SHARES:
            by_dataset.setdefault(printable(each.dataset), []).append(each)
    return [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": re.sub(r"[^a-z0-9]+", "-", dataset.casefold()).strip("-") or "own", "name": dataset},
            "metrics": [
                {"type": kind, "value": each.value, "name": name}
                for each in measured
                for kind, name in [_SHARES[each.name]]
            ],
        }
        for dataset, measured in by_dataset.items()
    ]

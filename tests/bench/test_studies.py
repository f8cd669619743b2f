from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from shvit.bench import studies
from shvit.bench.cost import count_cost
from shvit.bench.studies import STUDIES
from shvit.cli.main import main
from shvit.models import VARIANTS, SHViT

from .test_speed import SMALL


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("variant", ["shvit_s1", "shvit_s4"])
def test_every_choice_is_a_network(study, variant):
    choices = STUDIES[study](VARIANTS[variant])
    assert choices[0].config == VARIANTS[variant]
    assert len({choice.config for choice in choices}) >= 4
    with torch.device("meta"):
        for choice in choices:
            SHViT(choice.config)


def test_what_the_paper_says_of_tokens_and_memory():
    """A stem of stride 16 has a sixteenth of the tokens of stride 4, and moves far fewer bytes."""
    choices = {choice.name: choice.config for choice in STUDIES["macro"](SMALL)}
    costs = {name: count_cost(SHViT(config).eval(), (64, 64)) for name, config in choices.items()}
    coarse, fine = costs["stem 16, three stages"], costs["stem 4, three stages"]
    assert fine.bytes("fp32") > 3 * coarse.bytes("fp32")
    assert fine.macs > 8 * coarse.macs
    shares = [count_cost(SHViT(each.config).eval(), (64, 64)).macs for each in STUDIES["partial"](SMALL)[1:]]
    assert shares == sorted(shares)


def test_studies_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(VARIANTS, "shvit_s1", SMALL)
    monkeypatch.setattr(studies, "HEADS", (2,))
    command = ["bench", "studies", "--study", "heads", "--seconds", "0.02", "--rounds", "2", "--batch-size", "1"]
    assert main([*command, "--output", str(tmp_path), "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["results"]
    assert first["name"] == "one head on a part, as published"
    assert second["name"] == "2 heads on all channels"
    assert first["tokens"] == second["tokens"] == [16, 4, 1]
    assert first["speed_to_first"] == {"median": 1, "min": 1, "max": 1}
    assert second["memory_access_bytes"] > first["memory_access_bytes"]
    assert second["speed_to_first"]["median"] > 0
    assert (tmp_path / "studies.json").is_file()
    Image.open(tmp_path / "studies.png").verify()


def test_an_unknown_variant(capsys):
    assert main(["bench", "studies", "--model", "mobilenet"]) == 2
    assert "--model mobilenet: expected one of shvit_s1" in capsys.readouterr().err

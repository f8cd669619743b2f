from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shvit.models import SHViT, SHViTConfig, SHViTFeatures, create_model, list_models, reparameterize
from shvit.models.shvit import DistilledLogits, DropPath

SMALL = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 2), partial_dims=(4, 8, 12), num_classes=5)


def small(**changes) -> SHViT:
    torch.manual_seed(0)
    return SHViT(replace(SMALL, **changes))


@settings(max_examples=25)
@given(height=st.integers(1, 200), width=st.integers(1, 200))
@torch.no_grad()
def test_any_resolution(height, width):
    model = small().eval()
    features = model.forward_features(torch.zeros(1, 3, height, width))
    rounded_up = tuple(-(-side // 64) for side in (height, width))
    assert features.shape == (1, 32, *rounded_up)
    assert model.forward_head(features).shape == (1, 5)


def test_no_classes_gives_features():
    assert small(num_classes=0).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 32)


def test_pre_logits_and_reset_classifier():
    model = small().eval()
    image = torch.randn(2, 3, 64, 64)
    pooled = model.forward_head(model.forward_features(image), pre_logits=True)
    model.reset_classifier(0)
    torch.testing.assert_close(model(image), pooled)
    model.reset_classifier(9)
    assert model.config.num_classes == 9
    assert not model.head.training
    assert model(image[:1]).shape == (1, 9)
    model = model.to(torch.bfloat16)
    model.reset_classifier(3)
    assert model(image.to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_folded_network_gives_features_but_takes_no_new_head():
    model = small().eval()
    folded = reparameterize(model)
    with pytest.raises(ValueError, match="reset_classifier: a folded network"):
        folded.reset_classifier(3)
    image = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(image)[1]
    for ours, wanted in zip(SHViTFeatures(folded)(image), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_two_heads_in_training_their_mean_in_evaluation():
    model = small(distillation=True)
    image = torch.randn(4, 3, 64, 64)
    assert isinstance(model.train()(image), DistilledLogits)
    model.eval()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(image), pre_logits=True)
        torch.testing.assert_close(model(image), (model.head(pooled) + model.head_dist(pooled)) / 2)


@torch.no_grad()
def test_feature_maps():
    model = small().eval()
    image = torch.randn(1, 3, 128, 192)
    last, maps = model.forward_intermediates(image, indices=[0, -1])
    assert [tuple(each.shape) for each in maps] == [(1, 16, 8, 12), (1, 32, 2, 3)]
    torch.testing.assert_close(maps[-1], last)
    assert len(model.forward_intermediates(image, indices=2)[1]) == 2
    with pytest.raises(IndexError, match="no stage index 3"):
        model.forward_intermediates(image, indices=[3])
    with pytest.raises(IndexError, match="1 to 3"):
        model.forward_intermediates(image, indices=4)


@torch.no_grad()
def test_features_only_equals_the_whole_networks_maps():
    torch.manual_seed(0)
    whole = create_model("shvit_s1").eval()
    torch.manual_seed(0)
    backbone = create_model("shvit_s1", features_only=True, out_indices=(0, 1)).eval()
    image = torch.randn(1, 3, 64, 64)
    for ours, expected in zip(backbone(image), whole.forward_intermediates(image, [0, 1])[1], strict=True):
        torch.testing.assert_close(ours, expected)
    assert backbone.feature_info.channels() == [128, 224]
    assert backbone.feature_info.reduction() == [16, 32]
    assert backbone.feature_info.module_name() == ["stages.0", "stages.1"]
    assert len(backbone.model.stages) == 2


def test_gradient_checkpointing_gives_the_same_gradients():
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model = small().train()
        model.set_grad_checkpointing(enable)
        model(image).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_residual_branches_start_at_zero_inside_blocks_and_at_one_between_stages():
    model = small()
    for name, module in model.named_modules():
        if not name.endswith((".local.dw.norm", ".attention.project.norm", ".ffn.project.norm")):
            continue
        assert not module.weight.any(), name
    for name in ("local_in.dw", "ffn_in.project", "local_out.dw", "ffn_out.project"):
        assert bool((model.get_submodule(f"stages.1.downsample.{name}.norm").weight == 1).all()), name


def test_drop_path_keeps_the_mean_and_is_off_in_evaluation():
    torch.manual_seed(0)
    layer = DropPath(0.3).train()
    x = torch.ones(20_000, 1, 1, 1)
    dropped = layer(x)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert layer.eval()(x) is x


def test_drop_path_rises_linearly_to_the_last_block():
    probabilities = [m.probability for m in small(drop_path=0.3).modules() if isinstance(m, DropPath)]
    assert sorted(set(probabilities)) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert probabilities[-1] == pytest.approx(0.3)


@torch.no_grad()
def test_channels_last_is_the_same():
    model = small().eval()
    image = torch.randn(2, 3, 96, 64)
    expected = model(image)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(image.to(memory_format=torch.channels_last)), expected)


@torch.no_grad()
def test_torch_export_with_any_batch():
    model = small().eval()
    image = torch.randn(2, 3, 64, 96)
    program = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    more = torch.randn(5, 3, 64, 96)
    torch.testing.assert_close(program.module()(more), model(more))


@pytest.mark.parametrize("training", [False, True])
def test_torch_compile_without_graph_breaks(training):
    model = small(distillation=True).train(training)
    image = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs = compiled(image)
    if not training:
        torch.testing.assert_close(outputs, model(image))
    else:
        assert isinstance(outputs, DistilledLogits)


def test_unknown_name_suggests_the_right_one():
    with pytest.raises(ValueError, match="did you mean shvit_s1"):
        create_model("shvit-s1")
    assert list_models() == ["shvit_s1", "shvit_s2", "shvit_s3", "shvit_s4"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"widths": (16, 24)}, "widths"),
        ({"widths": (15, 24, 32)}, "widths"),
        ({"widths": (16, 2, 32)}, "widths"),
        ({"depths": (1, 1)}, "depths"),
        ({"depths": (1, 0, 1)}, "depths"),
        ({"partial_dims": (4, 25, 12)}, "partial_dims"),
        ({"partial_dims": (4, 8)}, "partial_dims"),
        ({"attention": (True,)}, "attention"),
        ({"num_heads": 3}, "num_heads"),
        ({"widths": (16, 24.0, 32)}, "widths"),
        ({"depths": 3}, "depths"),
        ({"partial_dims": ("4", 8, 12)}, "partial_dims"),
        ({"attention": (False, "no", True)}, "attention"),
        ({"image_size": 224.5}, "image_size"),
        ({"num_classes": None}, "num_classes"),
        ({"distillation": "yes"}, "distillation"),
        ({"dropout": "0.1.2"}, "dropout"),
        ({"num_heads": 0}, "num_heads"),
        ({"qk_dim": 0}, "qk_dim"),
        ({"stem_stride": 32}, "stem_stride"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"in_chans": 0}, "in_chans"),
        ({"num_classes": -1}, "num_classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"drop_path": -0.1}, "drop_path"),
        ({"num_classes": 0, "distillation": True}, "distillation"),
        ({"attention_step": 0}, "attention_step"),
        ({"attention_gate": "yes"}, "attention_gate"),
        ({"activation": "gelu"}, "activation"),
        ({"activation": ["relu"]}, "activation"),
        ({"branch_kernels": (5,)}, "branch_kernels"),
        ({"branch_kernels": (1,) * 9}, "branch_kernels"),
        ({"branch_kernels": 3}, "branch_kernels"),
        ({"head_stages": 4}, "head_stages"),
        ({"head_stages": 0}, "head_stages"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_fields_name(changes, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        replace(SMALL, **changes)


@settings(max_examples=50)
@given(ratio=st.floats(0.01, 1), heads=st.sampled_from([1, 2, 4]))
def test_partial_ratio_always_gives_a_network(ratio, heads):
    config = replace(SMALL, num_heads=heads).with_partial_ratio(ratio)
    for partial, width in zip(config.partial_dims, config.widths, strict=True):
        assert heads <= partial <= width
        assert partial % heads == 0

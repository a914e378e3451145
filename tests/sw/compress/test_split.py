from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sw.compress.network import module_sources
from sw.compress.split import SplitAttention, split_modules
from sw.compress.training.graph import quantise_activations
from sw.compress.training.modules import convert


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"batch_first": True}, {"add_bias_kv": True}])
@pytest.mark.parametrize("training", [False, True])
def test_attention_computes_the_same_bytes(settings: dict[str, Any], training: bool) -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(16, 2, **settings).train(training)
    reference, values, other = copy.deepcopy(model), torch.randn(3, 5, 16), torch.randn(3, 5, 16)
    assert split_modules(model) == [""]
    assert isinstance(model, SplitAttention)
    mask = torch.ones(5 if settings.get("batch_first") else 3, dtype=torch.bool).diag().logical_not()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            for inputs in ((values, values, values), (values, other, other)):
                for more in ({}, {"need_weights": False}, {"attn_mask": mask}):
                    outputs, expected = model(*inputs, **more), reference(*inputs, **more)
                    assert torch.equal(outputs[0], expected[0])
                    assert outputs[1] is expected[1] is None or torch.equal(outputs[1], expected[1])
    model(values, values, values)[0].sum().backward()
    reference(values, values, values)[0].sum().backward()
    assert torch.equal(model.in_proj.weight.grad, reference.in_proj_weight.grad)


def test_its_input_projection_is_a_layer_before_the_other_one() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32), nn.TransformerDecoderLayer(16, 2, 32))
    state = model.state_dict()
    names = split_modules(model)
    assert names == ["0.self_attn", "1.self_attn", "1.multihead_attn"]
    layers = [source.name for source in module_sources(model)]
    assert layers[:2] == ["0.self_attn.in_proj", "0.self_attn.out_proj"]
    assert {f"{name}.in_proj" for name in names} < set(layers)
    renamed = {key.replace("in_proj_", "in_proj."): value for key, value in state.items()}
    after = model.state_dict()
    assert after.keys() == renamed.keys()
    assert all(torch.equal(after[key], renamed[key]) for key in after)
    assert split_modules(model) == []


def test_attention_that_it_leaves_as_it_is() -> None:
    class Own(nn.MultiheadAttention):
        pass

    model = nn.ModuleList([nn.MultiheadAttention(16, 2, kdim=8), Own(16, 2)])
    keys = list(model.state_dict())
    assert split_modules(model) == []
    assert list(model.state_dict()) == keys


class BatchNormAct2d(nn.BatchNorm2d):
    """Stands for timm's class of this name: the same children, the same order of operations."""

    def __init__(self, features: int, act: nn.Module) -> None:
        super().__init__(features)
        self.drop, self.act = nn.Identity(), act

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(values)))


def test_batch_norm_with_an_activation_in_it() -> None:
    torch.manual_seed(0)
    norm = BatchNormAct2d(8, nn.ReLU6(inplace=True))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 8, 3), norm, nn.Flatten(), nn.Linear(128, 4))
    reference, images = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    assert split_modules(model) == ["1"]
    assert model[1] is model[3]
    for training in (True, False):
        outputs, expected = model.train(training)(images), reference.train(training)(images)
        assert torch.equal(outputs, expected)
    assert torch.equal(model[1].norm.running_var, reference[1].running_var)
    convert(model, [], progress=False)
    assert isinstance(quantise_activations(model, images), torch.fx.GraphModule)


def test_batch_norm_with_more_in_it_stays() -> None:
    model = nn.Sequential(BatchNormAct2d(8, nn.ReLU()))
    model[0].more = nn.Identity()
    assert split_modules(model) == []

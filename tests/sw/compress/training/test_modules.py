from __future__ import annotations

import copy
import dataclasses
import io
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer
from sw.compress.network import compress_network, module_sources
from sw.compress.training import modules
from sw.compress.training.decoders import CodewordDecoder
from sw.compress.training.dkm import DkmDecoder
from sw.compress.training.graph import calibrate, quantise_activations, quantise_inputs
from sw.compress.training.modules import (
    CodebookDecoder,
    DecodedConv2d,
    DecodedLinear,
    DecodedModule,
    UniformDecoder,
    compressed_layers,
    convert,
    fold_parametrisations,
    load_layers,
    masked_lookup,
)
from sw.compress.training.permutation import permute_network
from sw.format.container import read_container, write_container
from sw.format.layer import CompressedLayer

METHODS = ("vq", "mvq", "ssvq", "msvq")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, padding=1),
            relu=nn.ReLU(),
            grouped=nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2, bias=False),
            point=nn.Conv2d(32, 32, 1),
            flat=nn.Flatten(),
            classify=nn.Linear(32 * 4, 16),
        )
    )


def layer_of(method: str, seed: int = 0, bits: int = 8) -> tuple[LayerSource, CompressedLayer]:
    weight = np.random.default_rng(seed).standard_normal((32, 8, 3, 3)).astype(np.float32)
    source = LayerSource("layer", "conv", weight)
    return source, compress_layer(source, Recipe(method, 16, 16, 4, 16, codeword_bits=bits))


RULES = [("stem", Recipe("int8")), ("*", Recipe("msvq", 4, 16, 4, 16))]


@pytest.mark.parametrize("bits", [8, 5, 2])
@pytest.mark.parametrize("method", METHODS)
def test_decoder_gives_the_layers_weight_and_the_layer_back(method: str, bits: int) -> None:
    source, layer = layer_of(method, bits=bits)
    decoder = CodebookDecoder(layer, torch.from_numpy(source.weight))
    np.testing.assert_array_equal(decoder().detach().numpy(), layer.float_weights())
    fields = decoder.fields()
    for name, value in fields.items():
        np.testing.assert_array_equal(value, getattr(layer, name), err_msg=name)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", METHODS)
def test_codewords_are_clamped_to_their_bits_in_training(method: str, bits: int) -> None:
    """LSQ: an element beyond the range gets no gradient, and what leaves it is clamped in the file."""
    _, layer = layer_of(method, bits=bits)
    decoder = CodebookDecoder(layer)
    low, high = (0 if layer.signs is not None else -(1 << (bits - 1))), (1 << (bits - 1)) - 1
    with torch.no_grad():
        decoder.codebook[0, 0], decoder.codebook[1, 1] = 1000 * decoder.step(), -1000 * decoder.step()
    weight = decoder()
    weight.square().sum().backward()
    assert decoder.codebook.grad[0, 0] == decoder.codebook.grad[1, 1] == 0
    assert decoder.step.log_factor.grad != 0
    codebook = decoder.fields()["codebook"]
    assert codebook[0, 0] == high
    assert codebook[1, 1] == low
    scaled = (weight.detach() / decoder.step().detach()).round()
    assert scaled.max() <= high
    assert scaled.min() >= (low if layer.signs is None else -high)


def test_equation_6_is_the_mean_over_the_members_that_keep_an_element() -> None:
    _, layer = layer_of("mvq")
    decoder = CodebookDecoder(layer)
    assert decoder.masks is not None
    codebook = decoder.codebook.detach().clone().requires_grad_()
    gradient = torch.randn(layer.subvector_count, layer.d)
    masked_lookup(codebook, decoder.assignments, decoder.masks, decoder.counts).backward(gradient)
    expected = np.zeros((layer.k, layer.d))
    for i in range(layer.k):
        for element in range(layer.d):
            members = (layer.assignments == i) & layer.masks[:, element]
            if members.any():
                expected[i, element] = gradient.numpy()[members, element].mean()
    np.testing.assert_allclose(codebook.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["ssvq", "msvq"])
def test_sign_gradient_is_straight_through_times_the_codeword(method: str) -> None:
    source, layer = layer_of(method)
    decoder = CodebookDecoder(layer, torch.from_numpy(source.weight), alpha=2.0)
    assert decoder.signs is not None
    upstream = torch.randn(layer.shape)
    decoder().backward(upstream)
    magnitudes = layer.codebook[layer.assignments].astype(np.float32) * layer.scale
    by_subvector = upstream.reshape(2, 16, 8, 3, 3).permute(0, 2, 3, 4, 1).reshape(-1, 16).numpy()
    expected, start = by_subvector * magnitudes, source.weight.reshape(2, 16, 8, 3, 3).transpose(0, 2, 3, 4, 1)
    start = start.reshape(-1, 16)
    if layer.masks is not None:
        expected, start = (x[layer.masks].reshape(len(x), -1) for x in (expected, start))
    np.testing.assert_allclose(decoder.signs.latent.grad.numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(decoder.signs.latent.detach().numpy(), 2 * start, rtol=1e-6)


def test_signs_can_be_fixed() -> None:
    source, layer = layer_of("ssvq")
    decoder = CodebookDecoder(layer, torch.from_numpy(source.weight), learn_signs=False)
    decoder().sum().backward()
    assert decoder.signs is not None
    assert decoder.signs.latent.grad is None
    assert decoder.codebook.grad is not None


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_uniform_weights(bits: int, per_channel: bool) -> None:
    weight = torch.randn(8, 4, 3, 3)
    weight[3] = 0
    decoder = UniformDecoder(weight, bits, per_channel=per_channel)
    fields = decoder.fields()
    assert fields["scale"].shape == ((8,) if per_channel else (1,))
    assert np.unique(fields["weights"]).size <= 2**bits
    decoded = fields["weights"].astype(np.float32) * fields["scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(decoder().detach().numpy(), decoded)


def test_convert_follows_the_rules_and_computes_what_the_layers_say() -> None:
    model = network()
    layers = {layer.name: layer for layer in convert(model, RULES, progress=False)}
    assert {name: layer.method for name, layer in layers.items()} == {
        "stem": "int8",
        "grouped": "msvq",
        "point": "msvq",
        "classify": "msvq",
    }
    assert isinstance(model.stem, DecodedConv2d)
    assert isinstance(model.classify, DecodedLinear)
    reference = network()
    with torch.no_grad():
        for name, layer in layers.items():
            weight = reference.get_submodule(name).weight
            weight.copy_(torch.from_numpy(layer.float_weights()).reshape(weight.shape))
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(model(images), reference(images))


def train(model: nn.Module, steps: int = 3) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        model(torch.randn(4, 3, 4, 4)).square().mean().backward()
        optimiser.step()


def restored_from_files(model: nn.Module, layers: Sequence[CompressedLayer], folder: Path) -> nn.Module:
    """The network from the container of its layers and its state dict, each compared with what it was written from."""
    write_container(folder / "network", layers)
    restored = network(seed=1)
    load_layers(restored, read_container(folder / "network").layers)
    for a, b in zip(compressed_layers(restored), layers, strict=True):
        np.testing.assert_array_equal(a.integer_weights(), b.integer_weights())
        np.testing.assert_array_equal(a.scale, b.scale)
    # The state dict carries what the container does not: biases, latent signs.
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(restored(images), model(images))
    return restored


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("method", METHODS)
def test_trained_layers_survive_container_and_state_dict(method: str, bits: int, tmp_path: Path) -> None:
    model = network()
    recipe = Recipe(method, 4, 16, 4, 16, codeword_bits=bits)
    before = convert(model, [("stem", Recipe("int8")), ("*", recipe)], progress=False)
    train(model)
    after = compressed_layers(model)
    assert any((a.float_weights() != b.float_weights()).any() for a, b in zip(after, before, strict=True))
    for a, b in zip(after, before, strict=True):
        for fixed in ("assignments", "masks"):
            np.testing.assert_array_equal(getattr(a, fixed), getattr(b, fixed))
    train(restored_from_files(model, after, tmp_path))


@pytest.mark.parametrize("bits", [5, 7, 8])
def test_layers_without_codewords_keep_their_bits(bits: int) -> None:
    """In training, and when a layer comes back from a file; integers of others may be the least of two's complement."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Linear(6, 2))
    rules = [("*", Recipe("int8", uniform_bits=bits))]
    for layer in convert(model, rules, progress=False):
        assert layer.weights is not None
        assert (layer.weight_bits, np.abs(layer.weights).max()) == (bits, (1 << (bits - 1)) - 1)
        assert (
            all(np.abs(part).max() == np.abs(layer.weights).max() for part in layer.weights) or layer.kind == "linear"
        )
        wide = layer.weights.copy()
        wide[0, 0, 0, 0] = -1 << (bits - 1)
        given = dataclasses.replace(layer, weights=wide)
        fresh = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Linear(6, 2))
        load_layers(fresh, [given])
        (found,) = compressed_layers(fresh)
        assert found.weights is not None
        assert found.weight_bits == bits
        np.testing.assert_array_equal(found.weights, wide)


def test_bad_arguments() -> None:
    source, layer = layer_of("ssvq")
    weight = torch.from_numpy(source.weight)
    with pytest.raises(CompressError, match="alpha must be finite and positive, not 0"):
        CodebookDecoder(layer, weight, alpha=0)
    with pytest.raises(CompressError, match=r"weight must have shape \[32, 8, 3, 3\], not \[32, 8, 3\]"):
        CodebookDecoder(layer, weight[..., 0])
    raw = compress_layer(source, Recipe("int8"))
    with pytest.raises(CompressError, match="layer 'layer' must have a codebook, not method int8"):
        CodebookDecoder(raw)
    with pytest.raises(CompressError, match=r"layer 'layer' must have shape \[32, 8, 3, 3\] in the model, not none"):
        load_layers(network(), [layer])
    with pytest.raises(CompressError, match=r"in the model, not \[32, 32, 1, 1\]"):
        load_layers(network(), [dataclasses.replace(layer, name="point")])
    with pytest.raises(CompressError, match="at least one convolution or linear layer, not 0"):
        convert(nn.Sequential(nn.ReLU()), RULES)


CROSSLAYER = [("stem", Recipe("int8")), ("*", Recipe("msvq", 16, 16, 4, 16, scope="crosslayer"))]


@pytest.mark.parametrize("moving", [False, True])
def test_a_crosslayer_codebook_is_one_parameter(moving: bool) -> None:
    model = network()
    layers = convert(model, CROSSLAYER, moving=moving, progress=False)
    decoders = [module for module in model.modules() if isinstance(module, CodewordDecoder)]
    assert len(decoders) == 3
    assert len({id(decoder.codebook) for decoder in decoders}) == len({id(d.step.log_factor) for d in decoders}) == 1
    assert sum(parameter.shape == (16, 16) for parameter in model.parameters()) == 1
    before = compress_network(module_sources(network()), CROSSLAYER, progress=False)[0]
    for layer, other, decoder in zip(layers[1:], before[1:], decoders, strict=True):
        np.testing.assert_array_equal(layer.codebook, other.codebook)
        np.testing.assert_array_equal(layer.scale, other.scale)
        assert layer.codebook_name == other.codebook_name
        np.testing.assert_array_equal(decoder().detach().numpy(), layer.float_weights())


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.filterwarnings("ignore:layer .point. has weights of 0 alone")
@pytest.mark.parametrize("share", [0.0, 1e-6])
def test_a_layer_of_zeros_does_not_shrink_the_codebook_that_it_shares(share: float, moving: bool) -> None:
    """Its scale is next to nothing: where it counts in a mean, the optimiser's first step takes all codewords along."""
    model = network()
    with torch.no_grad():
        model.point.weight.mul_(share)
    before = convert(model, CROSSLAYER, moving=moving, progress=False)[1:]
    codebook = model.grouped.decoder.codebook
    assert 0.01 < float(codebook.detach().abs().max()) < 10
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)
    model(torch.randn(4, 3, 4, 4)).square().sum().backward()
    optimiser.step()
    for layer, other in zip(compressed_layers(model)[1:], before, strict=True):
        assert np.abs(layer.codebook.astype(int) - other.codebook).max() <= 2
        assert np.allclose(layer.scale, other.scale, rtol=1e-3, atol=0)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("recipe", [Recipe("ssvq", 1, 16, 0, 0), Recipe("msvq", 2, 16, 4, 16)])
def test_a_layer_whose_magnitudes_are_lost_is_named(recipe: Recipe, moving: bool) -> None:
    model = network()
    with torch.no_grad():
        model.classify.weight.zero_()
    rules = [("point", recipe), ("classify", dataclasses.replace(recipe, k=1))]
    convert(model, rules, moving=moving, progress=False)
    decoder = model.point.decoder
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        decoder.codebook[0, 1:] = -0.1
        assert any(layer.name == "classify" and layer.method == recipe.method for layer in compressed_layers(model))
        decoder.codebook.fill_(-0.1)
    decoder().square().sum().backward()
    assert not decoder.codebook.grad.any()
    with pytest.warns(UserWarning, match=r"^layer 'point' has weights of 0 alone: its codewords fell below 0") as told:
        layers = compressed_layers(model)
    assert len(told) == 1
    assert not next(layer for layer in layers if layer.name == "point").integer_weights().any()


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("method", ["vq", "msvq"])
def test_a_trained_crosslayer_codebook_has_the_values_of_its_file(method: str, moving: bool) -> None:
    """Bit for bit: each layer has a scale of its own, and a product of other factors may round elsewhere."""
    model = network()
    masked = (4, 16) if method == "msvq" else (0, 0)
    convert(
        model, [("stem", Recipe("int8")), ("*", Recipe(method, 64, 16, *masked, scope="crosslayer"))], moving=moving
    )
    decoders = [module for module in model.modules() if isinstance(module, CodewordDecoder)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.square().mean().sqrt().clamp_min(0.1)
            parameter += size * torch.randn(parameter.shape, generator=generator)
        # Halfway between two integers to the last bits.
        codebook, step = decoders[0].codebook, decoders[0].step()
        codebook.copy_((torch.randint(0, 100, codebook.shape, generator=generator) + 0.5) * step)
    for layer, decoder in zip(compressed_layers(model)[1:], decoders, strict=True):
        assert layer.codebook_name
        assert np.array_equal(decoder().detach().numpy(), layer.float_weights())


@pytest.mark.parametrize("moving", [False, True])
def test_equation_6_of_a_shared_codebook_is_the_mean_over_all_members(moving: bool) -> None:
    model = network()
    started = compress_network(module_sources(model), CROSSLAYER, progress=False)[0][1:]
    convert(model, CROSSLAYER, moving=moving, progress=False)
    decoders = [module for module in model.modules() if isinstance(module, CodewordDecoder)]
    gradients = [torch.randn(decoder.shape) for decoder in decoders]
    for decoder, gradient in zip(decoders, gradients, strict=True):
        decoder().backward(gradient)
    sums, counts = np.zeros((16, 16)), np.zeros((16, 16))
    for decoder, gradient, before in zip(decoders, gradients, started, strict=True):
        layer = CompressedLayer("x", "conv", decoder.shape, **decoder.fields())
        signs = np.zeros(layer.masks.shape)
        signs[layer.masks] = np.where(layer.signs, -1, 1).reshape(-1)
        upstream = decoder._grouped(gradient).numpy() * signs * float(decoder.factor)
        np.add.at(sums, layer.assignments, upstream)
        # Of those that move, members count as the clustering had them.
        np.add.at(counts, before.assignments, before.masks)
    found = decoders[0].codebook.grad.numpy()
    np.testing.assert_allclose(found, sums / counts.clip(1), rtol=1e-4, atol=1e-6)


def test_trained_crosslayer_codebook_survives_container_and_state_dict(tmp_path: Path) -> None:
    model = network()
    before = convert(model, CROSSLAYER, progress=False)
    train(model)
    after = compressed_layers(model)
    assert (after[1].codebook != before[1].codebook).any()
    restored = restored_from_files(model, after, tmp_path)
    train(restored)
    codebooks = {id(module.codebook) for module in restored.modules() if isinstance(module, CodebookDecoder)}
    assert len(codebooks) == 1


def test_each_method_becomes_its_decoder() -> None:
    model = network()
    rules = [("stem", Recipe("lsq2")), ("grouped", Recipe("dkm", 4, 8, 0, 0)), ("point", Recipe("pqf", 4, 8, 0, 0))]
    layers = {layer.name: layer for layer in convert(model, rules, progress=False)}
    assert {name: (layer.method, layer.weight_bits) for name, layer in layers.items()} == {
        "stem": ("int8", 2),
        "grouped": ("vq", 8),
        "point": ("vq", 8),
        "classify": ("int8", 8),
    }
    assert isinstance(model.stem.decoder, UniformDecoder)
    assert isinstance(model.grouped.decoder, DkmDecoder)
    train(model)


def test_permutation_of_convert_keeps_what_the_network_computes() -> None:
    def pair() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            OrderedDict(
                first=nn.Conv2d(3, 32, 3), relu=nn.ReLU(), second=nn.Conv2d(32, 16, 1), last=nn.Conv2d(16, 8, 1)
            )
        )

    plain, permuted = pair(), pair()
    names = []
    spy = permute_network

    def noted(*arguments: object, **keywords: object) -> list[str]:
        names.extend(spy(*arguments, **keywords))  # type: ignore[arg-type]
        return names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules, "permute_network", noted)
        convert(permuted, [("first", Recipe("pqf", 16, 8, 0, 0))], progress=False)
    assert names == ["first"]
    convert(plain, [("first", Recipe("vq", 16, 8, 0, 0))], progress=False)
    errors = []
    for model in (plain, permuted):
        reference, images = pair(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        errors.append(float((model(images) - reference(images)).detach().norm() / reference(images).detach().norm()))
    # Had the second layer's inputs another order than the first one's outputs, the error would be about 1.4.
    assert max(errors) < 0.7


def test_narrow_weights_survive_the_container(tmp_path: Path) -> None:
    model = network()
    after = convert(model, [("*", Recipe("lsq3"))], progress=False)
    write_container(tmp_path / "network", after)
    restored = network(seed=1)
    load_layers(restored, read_container(tmp_path / "network").layers)
    for a, b in zip(compressed_layers(restored), after, strict=True):
        assert a.weight_bits == b.weight_bits == 3
        np.testing.assert_array_equal(a.weights, b.weights)
        np.testing.assert_array_equal(a.scale, b.scale)


class PaddedConv2d(nn.Conv2d):
    """Pads below and to the right alone, as networks from other frameworks do for a stride of 2."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(values, (0, 1, 0, 1)))


class ScaledLinear(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(values, 2 * self.weight, self.bias)


def test_layers_with_a_forward_of_their_own_keep_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        PaddedConv2d(3, 16, 3, 2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Flatten(2),
        nn.Conv1d(16, 16, 3, padding=2, dilation=2, groups=2),
        nn.Flatten(),
        ScaledLinear(64, 16),
    )
    reference = copy.deepcopy(model)
    layers = convert(model, [("*", Recipe("ssvq", 4, 8, 0, 0))], progress=False)
    own = (0, 1, 3, 5)
    assert all(isinstance(model[i], DecodedModule) for i in own)
    with torch.no_grad():
        for i, layer in zip(own, layers, strict=True):
            reference[i].weight.copy_(torch.from_numpy(layer.float_weights()).reshape(reference[i].weight.shape))
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(model(images), reference(images))
    names = {name for name, _ in model.named_parameters()}
    assert "0.layer.bias" in names
    assert "0.layer.weight" not in names
    train(model)
    again = copy.deepcopy(model)
    assert torch.equal(again(images), model(images))
    with pytest.raises(CompressError, match="has no integer form"):
        quantise_activations(model)
    quantise_inputs(model)
    calibrate(model, images)


def test_a_layer_under_two_names_is_one_decoded_layer() -> None:
    conv = nn.Conv2d(16, 16, 1)
    model = nn.Sequential(conv, nn.Sequential(conv))
    convert(model, [("*", Recipe("lsq2"))], progress=False)
    assert model[0] is model[1][0]
    assert isinstance(model[0], DecodedConv2d)


def test_new_quantisers_lie_on_the_device_of_their_layer() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.LayerNorm(4))
    convert(model, [("*", Recipe("lsq4"))], progress=False)
    # Stands for a GPU: kernels refuse scales that are elsewhere.
    quantise_inputs(model.to("meta"))
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_an_encoder_layer_quantises_its_inputs_in_evaluation_too() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    convert(model, [("*", Recipe("lsq4"))], progress=False)
    quantise_inputs(model)
    values = torch.randn(2, 5, 16)
    calibrate(model, values)
    assert all(layer.quantiser.ready for layer in (model.linear1, model.linear2))
    model.linear1.quantiser.step.restart(torch.tensor(1e-6))  # what it sees is far outside of its range
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(values), model.train()(values))
    assert model.linear1.weight.shape == (32, 16)
    assert model.linear1.bias.shape == (32,)


def test_attention_takes_the_decoded_weight() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(16, 2, batch_first=True)
    reference, values = copy.deepcopy(model), torch.randn(2, 5, 16)
    (layer,) = convert(model, [("*", Recipe("lsq2"))], progress=False)
    quantise_inputs(model)
    with torch.no_grad():
        reference.out_proj.weight.copy_(torch.from_numpy(layer.float_weights()[:, :, 0, 0]))
        for training in (True, False):
            model.train(training)
            reference.train(training)
            torch.testing.assert_close(model(values, values, values)[0], reference(values, values, values)[0])


class Tied(nn.Module):
    """A head whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False)
        self.head.weight = self.words.weight

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(numbers))


@pytest.mark.parametrize("recipe", [Recipe("ssvq", 8, 8, 0, 0), Recipe("int8")])
def test_a_head_that_is_tied_to_an_embedding_is_refused_by_name(recipe: Recipe) -> None:
    message = r"^layer 'head' shares its weight with the embedding 'words', which stays .* head.weight = nn.Parameter\("
    model = Tied()
    with pytest.raises(CompressError, match=message):
        convert(model, [("head", recipe)], progress=False)
    assert model.head.weight is model.words.weight
    layers = compress_network(module_sources(model), recipe, progress=False)[0]
    with pytest.raises(CompressError, match=message):
        load_layers(model, layers)
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    convert(model, [("head", recipe)], progress=False)
    decoded = model.head.decoder().flatten(1)
    torch.testing.assert_close(model(torch.arange(64)), model.words.weight @ decoded.T)


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
def test_checkpoints_of_a_folded_layer_are_loaded() -> None:
    """Torch's hook of the old spectral norm stays, which asks for what is no more there."""
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)))
    fold_parametrisations(model)
    model.load_state_dict(copy.deepcopy(model).state_dict())

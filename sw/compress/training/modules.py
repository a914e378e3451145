"""Convolutions and linear layers whose weight is decoded in every forward pass, and can be trained in that form.

A network goes from ``Conv2d`` and ``Linear`` to :class:`DecodedConv2d` and :class:`DecodedLinear` in place, from layers
that compute something else to :class:`DecodedModule` (:func:`convert`, :func:`load_layers`), and from all of them to
:class:`~sw.format.layer.CompressedLayer` integers (:func:`compressed_layers`). What the forward pass computes with is
exactly the integers times their scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sw.compress.kmeans import member_counts
from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layers, misfit, recipe_for
from sw.compress.network import module_sources, progress_bar
from sw.compress.split import replace_module
from sw.compress.training.quant import StepSize, fake_quantise, integers, kernels_for, weight_range
from sw.format.layer import CompressedLayer

__all__ = [
    "CodebookDecoder",
    "Decoded",
    "DecodedConv2d",
    "DecodedLinear",
    "DecodedModule",
    "SignBits",
    "UniformDecoder",
    "WeightDecoder",
    "compressed_layers",
    "convert",
    "decoded_layers",
    "load_layers",
    "masked_lookup",
    "recipe_for",
    "replace_layer",
    "share_codebook",
]


class _MaskedLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codebook: Tensor, assignments: Tensor, masks: Tensor | None, counts: Tensor) -> Tensor:
        ctx.save_for_backward(assignments, masks, counts)
        ctx.dtype = codebook.dtype
        decoded = codebook[assignments]
        return decoded if masks is None else decoded.mul_(masks)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        assignments, masks, counts = ctx.saved_tensors
        gradient = gradients[0].float() if masks is None else gradients[0].float() * masks
        # Unlike index_add, this sum is deterministic on every device, and fast on the CPU.
        sums = torch.ops.aten.embedding_dense_backward(gradient.contiguous(), assignments, len(counts), -1, False)
        return (sums / counts).to(ctx.dtype), None, None, None


def masked_lookup(codebook: Tensor, assignments: Tensor, masks: Tensor | None, counts: Tensor) -> Tensor:
    """The subvectors ``c[a_j] o bm_j``, with the gradient of MVQ equation 6 for the codewords.

    Codeword i gets ``sum_p (dL/dv_p o n_p) / sum_p n_p`` over its members p: the mean over the weights that each of its
    elements stands for, so that the size of a step does not grow with the number of members.

    Parameters
    ----------
    codebook
        float ``[k, d]``.
    assignments
        int32 or int64 ``[NG]``.
    masks
        bool ``[NG, d]``, or None.
    counts
        float ``[k, d]``: weights that each element stands for (:func:`sw.compress.kmeans.member_counts`), at least 1.

    Returns
    -------
    Tensor
        float ``[NG, d]``.
    """
    decoded: Tensor = _MaskedLookup.apply(codebook, assignments, masks, counts)  # type: ignore[no-untyped-call]
    return decoded


class _FusedDecode(torch.autograd.Function):
    """What :meth:`CodebookDecoder.forward` computes, by kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        codebook: Tensor,
        base: Tensor,
        factor: Tensor,
        latent: Tensor | None,
        frozen: tuple[Tensor, ...],
        stored: Any,
        kernels: ModuleType,
    ) -> Tensor:
        ctx.save_for_backward(codebook, base, factor, latent, *frozen)
        ctx.stored, ctx.kernels = stored, kernels
        signs = () if latent is None else (latent, *frozen)
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else codebook.dtype
        weight: Tensor = kernels.decode(stored, codebook, base, factor, signs, dtype)
        return weight

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        codebook, base, factor, latent, *frozen = ctx.saved_tensors
        signs = () if latent is None else (latent, *frozen)
        learn = ctx.needs_input_grad[3]
        given = ctx.kernels.decode_backward(ctx.stored, gradients[0], codebook, base, factor, signs, learn)
        return given[0], None, given[1], given[2], None, None, None


class _Sign(torch.autograd.Function):
    """-1 where the sign bit is set and 1 elsewhere; straight-through backward."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor) -> Tensor:
        return 1 - 2 * latent.signbit().to(latent.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        gradient: Tensor = gradients[0]
        return gradient


class SignBits(nn.Module):
    """The signs of a decoder: latent numbers whose sign bits count, until they are frozen (SSVQ).

    Parameters
    ----------
    negative
        bool, True where a weight is negative.
    latent
        Latent signs, of that shape; their sign bits are ``negative``.
    learn
        Train the latent signs.

    Attributes
    ----------
    latent
        float parameter.
    frozen, frozen_negative
        bool: which signs no longer follow their latent, and what they are.
    """

    frozen: Tensor
    frozen_negative: Tensor

    def __init__(self, negative: Tensor, latent: Tensor, learn: bool = True) -> None:
        super().__init__()
        self.latent = nn.Parameter(latent, requires_grad=learn)
        self.register_buffer("frozen", torch.zeros_like(negative))
        self.register_buffer("frozen_negative", torch.zeros_like(negative))

    def negative(self) -> Tensor:
        """The sign bits, bool."""
        return torch.where(self.frozen, self.frozen_negative, self.latent.signbit())

    def forward(self) -> Tensor:
        """-1 and 1, differentiable in the latents that are not frozen."""
        fixed = 1 - 2 * self.frozen_negative.to(self.latent.dtype)
        signs: Tensor = torch.where(self.frozen, fixed, _Sign.apply(self.latent))  # type: ignore[no-untyped-call]
        return signs


class WeightDecoder(nn.Module):
    """What gives a layer its weight.

    Parameters
    ----------
    shape
        ``[K, C, R, S]``.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self) -> Tensor:
        """The weight, float ``[K, C, R, S]``, differentiable."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """The fields of the :class:`~sw.format.layer.CompressedLayer` that has this weight, but for its geometry."""
        raise NotImplementedError


class UniformDecoder(WeightDecoder):
    """Uniform quantisation with learned step sizes (LSQ): layers kept at 8 bit, and the 2, 3, 4-bit baseline.

    Parameters
    ----------
    weight
        float ``[K, C, R, S]`` that training starts from.
    bits
        2..8.
    per_channel
        One step an output channel; otherwise one for all.
    """

    def __init__(self, weight: Tensor, bits: int = 8, *, per_channel: bool = True) -> None:
        K, C, R, S = weight.shape
        super().__init__((K, C, R, S))
        self.bits = bits
        self.low, self.high = weight_range(bits)
        self.weight = nn.Parameter(weight.detach().clone())
        magnitudes = self.weight.detach().abs()
        if bits == 8:
            largest = magnitudes.amax((1, 2, 3), keepdim=True) if per_channel else magnitudes.max().reshape(1, 1, 1, 1)
            step = largest / self.high
        else:
            # LSQ's initial value.
            mean = magnitudes.mean((1, 2, 3), keepdim=True) if per_channel else magnitudes.mean().reshape(1, 1, 1, 1)
            step = 2 * mean / math.sqrt(self.high)
        self.step = StepSize(torch.where(step > 0, step, 1.0))

    def forward(self) -> Tensor:
        return self.step.quantise(self.weight, self.low, self.high)

    @torch.no_grad()
    def fields(self) -> dict[str, Any]:
        size = self.step()
        weights = integers(self.weight, size, self.low, self.high)
        return {
            "method": "int8",
            "weights": weights.to("cpu", torch.int8).numpy(),
            "scale": size.flatten().cpu().numpy(),
            "weight_bits": self.bits,
        }


class CodebookDecoder(WeightDecoder):
    """Decodes indices (+ masks, + signs) and trains the codebook, its step size, and the signs.

    Indices and masks stay as they are. The codebook is quantised in every forward pass: MVQ equation 5, with LSQ.

    With sign-split methods the weight is ``c[a] o sign(l)`` (SSVQ). The latent signs ``l`` get the straight-through
    gradient ``dL/dw o c[a]``; a sign that :class:`~sw.compress.training.freezing.SignFreezer` froze no longer follows
    its latent. MSVQ has latents for the kept weights only.

    Parameters
    ----------
    layer
        With a codebook.
    weight
        float ``[K, C, R, S]`` before compression, from which latent signs start; None: the layer's decoded weight.
    alpha
        Latent signs start as ``alpha * weight``. Larger values make flips rarer.
    learn_signs
        Train the latent signs.

    Raises
    ------
    CompressError
        The layer is of method ``int8``, ``weight`` has another shape, or ``alpha`` is not positive.
    """

    assignments: Tensor
    counts: Tensor
    factor: Tensor | None
    masks: Tensor | None
    positions: Tensor | None

    def __init__(
        self,
        layer: CompressedLayer,
        weight: Tensor | None = None,
        *,
        alpha: float = 1.0,
        learn_signs: bool = True,
    ) -> None:
        super().__init__(layer.shape)
        if layer.codebook is None or layer.assignments is None:
            raise CompressError(f"layer {layer.name!r} must have a codebook, not method {layer.method}")
        if not (math.isfinite(alpha) and alpha > 0):
            raise CompressError(f"alpha must be finite and positive, not {alpha!r}")
        if weight is not None and tuple(weight.shape) != layer.shape:
            raise CompressError(f"weight must have shape {list(layer.shape)}, not {list(weight.shape)}")
        self.method, self.d, self.k, self.n, self.m = layer.method, layer.d, layer.k, layer.n, layer.m
        self.low = 0 if layer.signs is not None else -128
        self.codebook_name = layer.codebook_name
        self.register_buffer("factor", None)
        scale = float(layer.scale[0])
        self.step = StepSize(torch.tensor(scale))
        self.codebook = nn.Parameter(torch.from_numpy(layer.codebook.astype(np.float32)) * scale)
        counts = member_counts(layer.masks, layer.assignments, layer.k, layer.d)
        self.register_buffer("assignments", torch.from_numpy(layer.assignments.copy()))
        self.register_buffer("counts", torch.from_numpy(counts.astype(np.float32)).clamp_min_(1), persistent=False)
        masks = None if layer.masks is None else torch.from_numpy(layer.masks.copy())
        self.register_buffer("masks", masks)
        self.signs: SignBits | None = None
        positions = None
        if layer.signs is not None:
            negative = torch.from_numpy(layer.signs.copy())
            if masks is not None:
                positions = masks.nonzero()[:, 1].reshape(len(masks), -1)
            start = torch.from_numpy(layer.float_weights()) if weight is None else weight.detach().cpu().float()
            magnitudes = self._grouped(start).abs() * alpha
            if positions is not None:
                magnitudes = magnitudes.gather(1, positions)
            # The layer's signs count, also where its magnitude, or the weight, is 0.
            self.signs = SignBits(negative, torch.where(negative, -magnitudes, magnitudes), learn_signs)
        self.register_buffer("positions", positions, persistent=False)
        self._stored: Any = None

    def _for_kernels(self, kernels: ModuleType) -> Any:
        """The layer's indices and masks in the form that the kernels want, made when they are first used."""
        device = self.codebook.device
        if self._stored is None or self._stored.counts.device != device:
            slots = None
            if self.masks is not None:
                slots = torch.where(self.masks, self.masks.cumsum(1) - 1, -1).to(torch.int8)
            members = self.assignments.sort(stable=True).indices.int()
            sizes = torch.bincount(self.assignments, minlength=self.k)
            offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).int()
            kept = self.d if self.masks is None else self.d * self.n // self.m
            self._stored = kernels.Stored(
                self.shape, self.d, kept, self.low, self.assignments.int(), slots, self.counts, members, offsets
            )
        return self._stored

    def _grouped(self, weight: Tensor) -> Tensor:
        """``[K, C, R, S]`` to ``[NG, d]``: :func:`sw.compress.grouping.group` on tensors."""
        K, C, R, S = self.shape
        return weight.reshape(K // self.d, self.d, C, R, S).permute(0, 2, 3, 4, 1).reshape(-1, self.d)

    def _ungrouped(self, subvectors: Tensor) -> Tensor:
        K, C, R, S = self.shape
        return subvectors.reshape(K // self.d, C, R, S, self.d).permute(0, 4, 1, 2, 3).reshape(self.shape)

    def forward(self) -> Tensor:
        # A shared codebook goes the plain way: it is small.
        kernels = kernels_for(self.codebook) if self.factor is None else None
        if kernels is not None:
            signs = self.signs
            latent, frozen = (None, ()) if signs is None else (signs.latent, (signs.frozen, signs.frozen_negative))
            stored = self._for_kernels(kernels)
            weight: Tensor = _FusedDecode.apply(  # type: ignore[no-untyped-call]
                self.codebook, self.step.base, self.step.log_factor, latent, frozen, stored, kernels
            )
            return weight
        values: Tensor = self.codebook
        size: Tensor = self.step()
        if self.factor is not None:
            # Of a shared codebook, in this layer's scale.
            values, size = values * self.factor, size * self.factor
        codebook = fake_quantise(values, size, self.low, 127)
        subvectors = masked_lookup(codebook, self.assignments, self.masks, self.counts)
        if self.signs is not None:
            bits: Tensor = self.signs()
            if self.positions is not None:
                bits = bits.new_zeros(subvectors.shape).scatter(1, self.positions, bits)
            subvectors = subvectors * bits.to(subvectors.dtype)
        return self._ungrouped(subvectors)

    @torch.no_grad()
    def fields(self) -> dict[str, Any]:
        size = self.step()
        codebook = integers(self.codebook, size, self.low, 127)
        return {
            "method": self.method,
            "d": self.d,
            "k": self.k,
            "n": self.n,
            "m": self.m,
            "scale": (size if self.factor is None else size * self.factor).reshape(1).cpu().numpy(),
            "codebook": codebook.to("cpu", torch.int8).numpy(),
            "codebook_name": self.codebook_name,
            "assignments": self.assignments.cpu().numpy(),
            "masks": None if self.masks is None else self.masks.cpu().numpy(),
            "signs": None if self.signs is None else self.signs.negative().cpu().numpy(),
        }


@torch.no_grad()
def share_codebook(decoders: Sequence[CodebookDecoder]) -> None:
    """Have decoders whose layers share a codebook train one: one parameter, one step, equation 6 over all members.

    Each layer's scale is the step times a fixed ``factor`` of its own. The step starts at a power of two near the
    layers' scales, so that their products are exact.
    """
    first = decoders[0]
    scales = torch.stack([decoder.step.base for decoder in decoders])
    start = torch.exp2(scales.log2().mean().round())
    codebook = nn.Parameter(integers(first.codebook, first.step(), first.low, 127) * start)
    step = StepSize(start)
    counts = sum(
        member_counts(None if d.masks is None else d.masks.numpy(), d.assignments.numpy(), d.k, d.d) for d in decoders
    )
    for decoder, scale in zip(decoders, scales, strict=True):
        decoder.codebook, decoder.step, decoder.factor = codebook, step, scale / start
        decoder.counts = torch.as_tensor(counts, dtype=torch.float32).clamp_min(1)


def _share_codebooks(decoders: Sequence[WeightDecoder]) -> None:
    named: dict[str, list[CodebookDecoder]] = {}
    for decoder in decoders:
        if isinstance(decoder, CodebookDecoder) and decoder.codebook_name is not None:
            named.setdefault(decoder.codebook_name, []).append(decoder)
    for group in named.values():
        share_codebook(group)


class DecodedConv2d(nn.Module):
    """A convolution whose weight comes from a :class:`WeightDecoder`.

    Parameters
    ----------
    conv
        Gives the geometry and the bias.
    decoder
        Gives the weight.
    source
        Name and geometry, for the compressed layer.
    """

    def __init__(self, conv: nn.Conv2d, decoder: WeightDecoder, source: LayerSource) -> None:
        super().__init__()
        self.decoder, self.bias = decoder, conv.bias
        self.name, self.kind = source.name, source.kind
        self.stride, self.padding, self.dilation, self.groups = (
            source.stride,
            source.padding,
            source.dilation,
            source.groups,
        )

    def forward(self, values: Tensor) -> Tensor:
        """The convolution of ``values`` with the decoded weight."""
        return functional.conv2d(
            values, self.decoder(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class DecodedLinear(nn.Module):
    """A linear layer whose weight comes from a :class:`WeightDecoder`. Parameters: :class:`DecodedConv2d`."""

    def __init__(self, linear: nn.Linear, decoder: WeightDecoder, source: LayerSource) -> None:
        super().__init__()
        self.decoder, self.bias = decoder, linear.bias
        self.name, self.kind = source.name, source.kind
        self.stride, self.padding, self.dilation, self.groups = (1, 1), (0, 0), (1, 1), 1

    @property
    def weight(self) -> Tensor:
        """The decoded weight ``[K, C]``, for modules that do not call the layer, such as ``MultiheadAttention``."""
        weight: Tensor = self.decoder()
        return weight.flatten(1)

    def forward(self, values: Tensor) -> Tensor:
        """The product of ``values`` with the decoded weight, and the bias."""
        return functional.linear(values, self.decoder().flatten(1), self.bias)


class DecodedModule(nn.Module):
    """A layer that computes something else than ``Conv2d`` or ``Linear``, in its own way with the decoded weight.

    Such as a convolution that pads by the size of its input, or with other values than zeros, and ``Conv1d``. It has no
    integer form. Parameters: :class:`DecodedConv2d`.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Linear, decoder: WeightDecoder, source: LayerSource) -> None:
        super().__init__()
        self.shape = layer.weight.shape
        del layer.weight
        self.decoder, self.layer = decoder, layer
        self.name, self.kind = source.name, source.kind
        self.stride, self.padding, self.dilation, self.groups = (
            source.stride,
            source.padding,
            source.dilation,
            source.groups,
        )

    def forward(self, values: Tensor) -> Tensor:
        """The layer's own forward."""
        self.layer.weight = cast(nn.Parameter, self.decoder().reshape(self.shape))
        try:
            result: Tensor = self.layer(values)
            return result
        finally:
            del self.layer.weight


#: The layers of a converted network.
Decoded = DecodedConv2d | DecodedLinear | DecodedModule


def _own_forward(layer: nn.Module) -> bool:
    """Whether a layer computes something else than ``Conv2d`` with zeros around, or ``Linear``."""
    kind: Any = type(layer)
    if isinstance(layer, nn.Conv2d):
        plain = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
        return not plain or layer.padding_mode != "zeros"
    return isinstance(layer, nn.Conv1d) or (isinstance(layer, nn.Linear) and kind.forward is not nn.Linear.forward)


def replace_layer(model: nn.Module, source: LayerSource, decoder: WeightDecoder) -> None:
    """Put a decoded layer in the place of the layer, or decoded layer, of that name.

    Wherever the network has this very layer under other names, they get the decoded one, too.
    """
    old = model.get_submodule(source.name)
    device, training = next(iter(old.parameters())).device, old.training
    new: nn.Module
    if _own_forward(old):
        new = DecodedModule(cast(nn.Conv2d, old), decoder, source)
    elif source.kind == "conv":
        new = DecodedConv2d(cast(nn.Conv2d, old), decoder, source)
    else:
        new = DecodedLinear(cast(nn.Linear, old), decoder, source)
    replace_module(model, old, new.to(device).train(training))


def convert(
    model: nn.Module,
    rules: Sequence[tuple[str, Recipe]],
    *,
    alpha: float = 1.0,
    learn_signs: bool = True,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[CompressedLayer]:
    """Compress all convolutions and linear layers of a network, in place, for training in that form.

    Layers of one crosslayer recipe train one codebook (:func:`share_codebook`), those of ``dkm`` weights and attention
    (:class:`sw.compress.training.dkm.DkmDecoder`), and for ``pqf`` channels are reordered first
    (:func:`sw.compress.training.permutation.permute_network`).

    Parameters
    ----------
    model
        Changed in place: the layers become decoded ones.
    rules
        Pairs of a shell pattern and a recipe; the first that matches a layer's name holds. A layer that none matches,
        or that its recipe cannot compress (:func:`sw.compress.methods.misfit`), stays at 8 bit: one scale an output
        channel for convolutions, one for all of a linear layer, so that the sums of a classifier can be compared.
    alpha, learn_signs
        As in :class:`CodebookDecoder`.
    threads, device
        Of the clustering, as in :func:`sw.compress.kmeans.kmeans_layers`.
    progress
        Show a bar on standard error.

    Returns
    -------
    list
        The compressed layers before fine-tuning.

    Raises
    ------
    CompressError
        The model has no layer, or a weight is NaN or infinite.
    """
    sources = module_sources(model)
    if not sources:
        raise CompressError("the network must have at least one convolution or linear layer, not 0")
    # They import this module.
    from sw.compress.training.dkm import DkmDecoder
    from sw.compress.training.permutation import permute_network

    recipes = [recipe_for(source.name, rules) for source in sources]
    permuted: dict[tuple[int, int], list[str]] = {}
    for source, recipe in zip(sources, recipes, strict=True):
        if recipe.method == "pqf" and misfit(source, recipe) is None:
            permuted.setdefault((recipe.d, recipe.seed), []).append(source.name)
    for (d, seed), names in permuted.items():
        permute_network(model, d, seed=seed, layers=names, progress=progress)
        sources = module_sources(model)
    with progress_bar(progress) as bar:
        task = bar.add_task("clustering", total=len(sources))
        layers = compress_layers(sources, recipes, threads=threads, device=device, done=lambda: bar.advance(task))
    decoders: list[WeightDecoder] = []
    for source, recipe, layer in zip(sources, recipes, layers, strict=True):
        weight = torch.from_numpy(source.weight)
        if layer.method == "int8":
            decoders.append(UniformDecoder(weight, layer.weight_bits, per_channel=source.kind == "conv"))
        elif recipe.method == "dkm":
            decoders.append(DkmDecoder(layer, weight))
        else:
            decoders.append(CodebookDecoder(layer, weight, alpha=alpha, learn_signs=learn_signs))
    _share_codebooks(decoders)
    for source, decoder in zip(sources, decoders, strict=True):
        replace_layer(model, source, decoder)
    return compressed_layers(model)


def load_layers(model: nn.Module, layers: Sequence[CompressedLayer]) -> None:
    """Put compressed layers in the place of the layers of these names: the reverse of :func:`compressed_layers`.

    The model computes from the layers' integers from then on, and can be trained further. A ``state_dict`` of the model
    that they came from can then be loaded.

    Raises
    ------
    CompressError
        The model has no layer of that name, or one of another shape.
    """
    sources = {source.name: source for source in module_sources(model)}
    replaced: list[tuple[LayerSource, WeightDecoder]] = []
    for layer in layers:
        source = sources.get(layer.name)
        if source is None or source.shape != layer.shape:
            found = "none" if source is None else str(list(source.shape))
            raise CompressError(f"layer {layer.name!r} must have shape {list(layer.shape)} in the model, not {found}")
        decoder: WeightDecoder
        if layer.method == "int8":
            weight = torch.from_numpy(layer.float_weights())
            decoder = UniformDecoder(weight, layer.weight_bits, per_channel=len(layer.scale) > 1)
            decoder.step.restart(torch.from_numpy(layer.scale).reshape(-1, 1, 1, 1))
        else:
            decoder = CodebookDecoder(layer)
        replaced.append((source, decoder))
    _share_codebooks([decoder for _, decoder in replaced])
    for source, decoder in replaced:
        replace_layer(model, source, decoder)


def decoded_layers(model: nn.Module) -> Iterator[tuple[str, Decoded]]:
    """The decoded layers of a network and their names, in its order."""
    for name, module in model.named_modules():
        if isinstance(module, Decoded):
            yield name, module


def compressed_layers(model: nn.Module) -> list[CompressedLayer]:
    """The decoded layers of a network as integers, without requantisation, in its order."""
    return [
        CompressedLayer(
            name=layer.name,
            kind=layer.kind,
            shape=layer.decoder.shape,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            **layer.decoder.fields(),
        )
        for _, layer in decoded_layers(model)
    ]

"""What gives a layer its weight in every forward pass, and trains it in that form: codebooks, signs, step sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sw.compress.kmeans import member_counts
from sw.compress.methods import CompressError
from sw.compress.training.quant import StepSize, fake_quantise, integers, kernels_for, weight_range
from sw.compress.training.settings import check_alpha
from sw.format.layer import CompressedLayer, codeword_range

__all__ = [
    "CodebookDecoder",
    "CodewordDecoder",
    "SignBits",
    "UniformDecoder",
    "WeightDecoder",
    "masked_lookup",
    "share_codebook",
    "share_codebooks",
]


# A scale that is less than this share of another is of weights that do not matter beside those of the other.
_NEXT_TO_NOTHING = 2.0**-12


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
    @once_differentiable
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


class CodewordDecoder(WeightDecoder):
    """A weight of codewords of length d, along the output channels: what decoders with a codebook share."""

    d: int
    k: int
    #: Stored, N:M of the masks, and bits of a codeword's weights: as in the compressed layer.
    method: str
    n: int
    m: int
    codeword_bits: int
    #: What is trained: codewords, float ``[k, d]``, and the step of their integers in ``low..high``.
    codebook: Tensor
    step: StepSize
    low: int
    high: int
    #: Weights that each element of the codebook stands for, float ``[k, d]``: of this layer, and of all that share it,
    #: then at least 1.
    members: Tensor
    counts: Tensor
    #: Of a codebook that layers share (:func:`share_codebook`): its name, and this layer's scale as a multiple of it.
    codebook_name: str | None = None
    factor: Tensor | None

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        super().__init__(shape)
        self.register_buffer("factor", None)

    def _count_members(self, layer: CompressedLayer) -> None:
        """Set ``members`` and ``counts`` by the masks and assignments of a layer."""
        assert layer.assignments is not None
        self.members = torch.from_numpy(member_counts(layer.masks, layer.assignments, layer.k, layer.d)).float()
        self.register_buffer("counts", self.members.clamp_min(1), persistent=False)

    def _own_scale(self) -> Tensor:
        """What one of the codebook's integers is in this layer."""
        size: Tensor = self.step()
        return size if self.factor is None else size * self.factor

    def _codewords(self) -> Tensor:
        """The codebook in integers times this layer's scale, ``[k, d]``, with LSQ's gradients."""
        codebook = fake_quantise(self.codebook, self.step(), self.low, self.high)
        if self.factor is None:
            return codebook
        codebook = codebook * self.factor
        with torch.no_grad():
            # The integers times the scale that a file has: a product of other factors may differ in the last bit. The
            # difference of two such neighbours, and its sum with one of them, are exact.
            exact = integers(self.codebook.float(), self.step(), self.low, self.high) * self._own_scale()
            difference = exact.to(codebook.dtype) - codebook
        return codebook + difference

    def _grouped(self, weight: Tensor) -> Tensor:
        """``[K, C, R, S]`` to ``[NG, d]``: :func:`sw.compress.grouping.group` on tensors."""
        K, C, R, S = self.shape
        return weight.reshape(K // self.d, self.d, C, R, S).permute(0, 2, 3, 4, 1).reshape(-1, self.d)

    def _ungrouped(self, subvectors: Tensor) -> Tensor:
        K, C, R, S = self.shape
        return subvectors.reshape(K // self.d, C, R, S, self.d).permute(0, 4, 1, 2, 3).reshape(self.shape)

    def _coded(self, codes: Tensor, assignments: Tensor) -> dict[str, Any]:
        """The fields of a compressed layer without masks and signs."""
        return {
            "method": self.method,
            "d": self.d,
            "k": self.k,
            "n": self.n,
            "m": self.m,
            "scale": self._own_scale().reshape(1).cpu().numpy(),
            "codebook_name": self.codebook_name,
            "codebook": codes.to("cpu", torch.int8).numpy(),
            "codeword_bits": self.codeword_bits,
            "assignments": assignments.to("cpu", torch.int32).numpy(),
        }


class UniformDecoder(WeightDecoder):
    """Uniform quantisation with learned step sizes (LSQ): layers kept at 5 to 8 bits, and the 2, 3, 4-bit baseline.

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
        if bits > 4:
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


class CodebookDecoder(CodewordDecoder):
    """Decodes indices (+ masks, + signs) and trains the codebook, its step size, and the signs.

    Indices and masks stay as they are. The codebook is quantised in every forward pass, to the layer's
    ``codeword_bits``: MVQ equation 5, with LSQ.

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
        check_alpha(alpha)
        if weight is not None and tuple(weight.shape) != layer.shape:
            raise CompressError(f"weight must have shape {list(layer.shape)}, not {list(weight.shape)}")
        self.method, self.d, self.k, self.n, self.m = layer.method, layer.d, layer.k, layer.n, layer.m
        self.codeword_bits = layer.codeword_bits
        self.low, self.high = codeword_range(layer.codeword_bits, layer.signs is not None)
        self.codebook_name = layer.codebook_name
        scale = float(layer.scale[0])
        self.step = StepSize(torch.tensor(scale))
        self.codebook = nn.Parameter(torch.from_numpy(layer.codebook.astype(np.float32)) * scale)
        self._count_members(layer)
        self.register_buffer("assignments", torch.from_numpy(layer.assignments.copy()))
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
                self.shape,
                self.d,
                kept,
                self.low,
                self.high,
                self.assignments.int(),
                slots,
                self.counts,
                members,
                offsets,
            )
        return self._stored

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
        subvectors = masked_lookup(self._codewords(), self.assignments, self.masks, self.counts)
        if self.signs is not None:
            bits: Tensor = self.signs()
            if self.positions is not None:
                bits = bits.new_zeros(subvectors.shape).scatter(1, self.positions, bits)
            subvectors = subvectors * bits.to(subvectors.dtype)
        return self._ungrouped(subvectors)

    @torch.no_grad()
    def fields(self) -> dict[str, Any]:
        codebook = integers(self.codebook, self.step(), self.low, self.high)
        return self._coded(codebook, self.assignments) | {
            "masks": None if self.masks is None else self.masks.cpu().numpy(),
            "signs": None if self.signs is None else self.signs.negative().cpu().numpy(),
        }


@torch.no_grad()
def share_codebook(decoders: Sequence[CodewordDecoder]) -> None:
    """Have decoders whose layers share a codebook train one: one parameter, one step, equation 6 over all members.

    Each layer's scale is the step times a fixed ``factor`` of its own. The step starts at a power of two near the
    layers' scales, so that their products are exact. Those of next to nothing, such as of a layer of zeros, do not
    count: near a mean with them, the first step of training would throw all codewords to the ends of their range.
    """
    first = decoders[0]
    scales = torch.stack([decoder.step.base for decoder in decoders])
    start = torch.exp2(scales[scales >= _NEXT_TO_NOTHING * scales.max()].log2().mean().round())
    codebook = nn.Parameter(integers(first.codebook, first.step(), first.low, first.high) * start)
    step = StepSize(start)
    counts = torch.stack([decoder.members for decoder in decoders]).sum(0).clamp_min_(1)
    for decoder, scale in zip(decoders, scales, strict=True):
        decoder.codebook, decoder.step, decoder.factor = codebook, step, scale / start
        decoder.counts = counts


def share_codebooks(decoders: Sequence[WeightDecoder]) -> None:
    """:func:`share_codebook` for the decoders of each name of a codebook; one that layers share counts once."""
    named: dict[str, list[CodewordDecoder]] = {}
    for decoder in dict.fromkeys(decoders):
        if isinstance(decoder, CodewordDecoder) and decoder.codebook_name is not None:
            named.setdefault(decoder.codebook_name, []).append(decoder)
    for group in named.values():
        share_codebook(group)

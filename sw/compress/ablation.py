"""MVQ table 3: what masks in the clustering bring, at equal bits a weight; and MSVQ beside MVQ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.compress.methods import CompressError, LayerSource, Recipe, compress_layer, kept_weights, misfit
from sw.compress.network import progress_bar
from sw.compress.ratio import StorageBits, storage_bits, sum_bits

__all__ = ["CASES", "SUBVECTORS_PER_CODEWORD", "AblationRow", "Case", "ablation", "larger_convolutions"]

#: A convolution is a larger one if it has at least this many subvectors of 16 for each of MVQ's 512 codewords. Below,
#: the codebook itself takes most of the bits, and clustering has little to do.
SUBVECTORS_PER_CODEWORD = 4

N, M = 4, 16


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    #: The paper's letter, or the method.
    name: str
    #: In words.
    meaning: str
    #: Of the recipe.
    method: str
    k: int
    d: int
    #: The weights are pruned before they are clustered.
    sparse_weight: bool
    #: The decoded weights are pruned. Implied by the masked methods.
    sparse_recon: bool
    #: Initial codewords, if not the ones of the other cases.
    init: str | None = None


#: Cases A to D of MVQ table 3, D once more from the initial codewords that the paper describes, and MSVQ, at equal bits
#: without and with the codebooks.
CASES = (
    Case("A", "dense weight, common k-means, dense recon", "vq", 1024, 8, False, False),
    Case("B", "sparse weight, common k-means, dense recon", "vq", 1024, 8, True, False),
    Case("C", "sparse weight, common k-means, sparse recon", "vq", 512, 16, True, True),
    Case("D", "sparse weight, masked k-means, sparse recon", "mvq", 512, 16, True, True),
    Case("D-paper", "D with pruned elements of the initial codewords at 0", "mvq", 512, 16, True, True, "paper"),
    Case("MSVQ", "D on magnitudes, signs apart", "msvq", 32, 16, True, True),
    Case("MSVQ-128", "MSVQ at no more bits than D, codebooks included", "msvq", 128, 16, True, True),
)


@dataclass(frozen=True)
class AblationRow:
    """One case over all layers."""

    #: Which.
    case: Case
    #: Total SSE: over all weights, against the weights that were clustered (pruned but in case A), as in the paper.
    sse: float
    #: The paper's mask SSE: over the weights that 4:16 pruning keeps.
    kept_sse: float
    #: Squared error of all weights against the dense weights, divided by the energy of those: includes pruning. 0 for
    #: layers of zeros.
    relative_error: float
    #: Of all layers.
    bits: StorageBits

    def to_dict(self) -> dict[str, Any]:
        """The row as plain Python values, for JSON. ``code_bits_per_weight`` leaves the codebooks out."""
        return {
            **dataclasses.asdict(self.case),
            "sse": self.sse,
            "kept_sse": self.kept_sse,
            "relative_error": self.relative_error,
            "code_bits_per_weight": (self.bits.total - self.bits.codebook) / self.bits.weight_count,
            "bits_per_weight": self.bits.per_weight,
        }


def larger_convolutions(sources: Sequence[LayerSource]) -> list[LayerSource]:
    """The convolutions that MVQ with 4:16, k = 512, d = 16 can compress and that have at least
    :data:`SUBVECTORS_PER_CODEWORD` * 512 subvectors. 21 of EfficientNet-Lite0.

    Raises
    ------
    CompressError
        There is none.
    """
    recipe = Recipe(method="mvq", n=N, m=M, k=512, d=16)
    larger = [
        source
        for source in sources
        if source.kind == "conv"
        and misfit(source, recipe) is None
        and source.weight.size >= SUBVECTORS_PER_CODEWORD * recipe.k * recipe.d
    ]
    if not larger:
        needed = SUBVECTORS_PER_CODEWORD * recipe.k * recipe.d
        raise CompressError(f"the ablation needs a convolution of at least {needed} weights that MVQ can compress")
    return larger


def ablation(
    sources: Sequence[LayerSource],
    *,
    iterations: int = 20,
    seed: int = 0,
    init: str = "k-means++",
    threads: int | None = None,
    progress: bool = True,
) -> list[AblationRow]:
    """Run :data:`CASES` on these layers: the same iterations, seed and initialisation for each, codebooks at 8 bit.

    Parameters
    ----------
    sources
        :func:`larger_convolutions` of a network.
    iterations, seed, init, threads
        As in :func:`sw.compress.kmeans.kmeans`.
    progress
        Show a progress bar.
    """
    energy = math.fsum(float((source.weight.astype(np.float64) ** 2).sum()) for source in sources)
    rows = []
    with progress_bar(progress) as bar:
        task = bar.add_task("ablation", total=len(CASES) * len(sources))
        for case in CASES:
            recipe = Recipe(case.method, case.k, case.d, N, M, iterations, seed, case.init or init)
            sums, bits = np.zeros(3), []
            for source in sources:
                bar.update(task, advance=1, description=f"case {case.name}")
                kept = kept_weights(source.weight, N, M)
                assert kept is not None
                pruned = np.where(kept, source.weight, np.float32(0))
                target = pruned if case.sparse_weight else source.weight
                layer = compress_layer(dataclasses.replace(source, weight=target), recipe, threads=threads)
                decoded = layer.float_weights() * (kept if case.sparse_recon else 1)
                sums += _sse(decoded, target), _sse(decoded[kept], target[kept]), _sse(decoded, source.weight)
                # Case C is decoded with masks though its method has none: they take bits too.
                masked, signed = case.sparse_recon, recipe.signed
                bits.append(
                    storage_bits(source.weight.size, d=case.d, k=case.k, n=N, m=M, masked=masked, signed=signed)
                )
            rows.append(
                AblationRow(
                    case, float(sums[0]), float(sums[1]), float(sums[2]) / energy if energy else 0.0, sum_bits(bits)
                )
            )
    return rows


def _sse(decoded: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    return float(((decoded.astype(np.float64) - target) ** 2).sum())

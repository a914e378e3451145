"""One row of a study: what is done to a network's layers before fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sw.compress.candidates import METHOD_CANDIDATES
from sw.compress.methods import Recipe
from sw.compress.training.settings import Freezing

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """What is done to a network's layers before fine-tuning."""

    #: In the tables.
    name: str
    #: Method, k, d, N:M of the layers; the first and the last layer stay at 8 bit.
    recipe: Recipe = dataclasses.field(default_factory=lambda: Recipe("int8"))
    #: Start from the network that was trained sparse, N:M.
    sparse: str = ""
    #: ``vq`` with the masks of the weights: common k-means, sparse reconstruction (MVQ table 3, case C).
    masks: bool = False
    #: Reorder channels before clustering (PQF).
    permute: bool = False
    #: Instead of the recipe's k: the most codewords with which a layer, or all layers that share a codebook, take at
    #: most so many bits a weight, codebook included.
    bits: float | None = None
    #: Instead of the recipe's k: codewords with which all layers but the depthwise ones take so many bits a weight
    #: together, codebooks included, as nearly as can be (:func:`filling_codewords`).
    mean_bits: float | None = None
    #: Instead of the recipe's k, d and N:M: those of each layer with which the network loses least within ``mean_bits``
    #: (:mod:`experiments.measured_bits`).
    measured: bool = False
    #: Instead of a recipe: the one for each layer that a search finds for a file of at most that size.
    file_bytes: int = 0
    #: What the search tries; codewords of 8 bits unless it says otherwise.
    candidates: Sequence[Recipe] = METHOD_CANDIDATES
    #: Where each layer's bits are measured: methods beside the recipe's that a layer may have.
    others: Sequence[str] = ()
    #: Of sign-split methods.
    learn_signs: bool = True
    freezing: Freezing | None = None
    alpha: float = 1.0
    #: Train the weights, and have assignments, signs and masks follow from them.
    moving: bool = False
    #: Learn the logits of the dense network in floating point in place of the labels.
    distil: bool = False
    #: The case whose learning rate it takes; empty: its own.
    rate_of: str = ""

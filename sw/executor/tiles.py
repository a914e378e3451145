"""TILE: what the array makes of weights and of windows in L1, and the memories around it.

Tiles that go on with the same sums are multiplied together once the sums are wanted, which takes a fraction of the
time; as sums wrap, it is the same in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AcceleratorConfig

__all__ = ["Array", "TileShape", "Windows"]

# The fields of a TILE that are checked without the state of the machine, and those of its windows.
_SHAPE = itemgetter(
    *"A B D Dr rows width height codewords passes advance_columns shift accumulate start raw".split()  # noqa: SIM905
)
_WINDOW = itemgetter(
    *"D Dr width height B passes advance_columns line_pitch position_pitch dr_pitch ds_pitch b_pitch".split()  # noqa: SIM905
)
# Windows that are kept, in bytes.
_KEPT_BYTES = 1 << 27
# Products of int8 sums of so many terms are exact in float32.
_EXACT_TERMS = 1 << 10


@dataclass(frozen=True)
class TileShape:
    """What follows from the fields of a TILE that say its shape."""

    #: Rows of weights.
    row_writes: int
    #: Products of a sum.
    terms: int
    #: Of the output.
    positions: int
    #: What its descriptor adds to the counters, but for partial sums.
    counts: dict[str, int]


@dataclass(frozen=True)
class Windows:
    """Activations, float32 ``[positions, D * groups * H]``; windows of one number are the same, always."""

    number: int
    values: NDArray[np.float32]


@dataclass(frozen=True)
class _Region:
    """Vectors of L1 from a tile's base on: each of them, the first and the last."""

    words: NDArray[np.int64]
    least: int
    most: int


@dataclass(eq=False)
class _Chain:
    """Tiles that go on with the same sums: those before, and in turn each tile's windows, weights and terms."""

    start: int
    stop: int
    before: NDArray[np.int32] | None
    factors: list[tuple[Windows, NDArray[Any], int]] = field(default_factory=list)


class Array:
    """L1's activations and sums, and what tiles make of them.

    Parameters
    ----------
    config
        The instance.
    together
        Multiply tiles of the same sums together. Without it, the sums of each tile are there at once.
    """

    def __init__(self, config: AcceleratorConfig, together: bool) -> None:
        self.config, self.together = config, together
        self.coded = config.features.codebook
        # Exact in float32, and so ready for the matrix product.
        self.l1 = np.zeros((config.l1_ifmap_depth, config.H), np.float32)
        # Where the windows of tiles are in L1, by their geometry; the windows, until L1 changes, and where they are;
        # and those that were put beside each other, by their numbers.
        self.regions: dict[tuple[int, ...], _Region] = {}
        self.gathered: dict[tuple[int, ...], tuple[Windows, int, int]] = {}
        self.joined: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self.kept_bytes = self.numbers = 0
        self.psum = np.zeros((config.l1_psum_depth, config.L), np.int32)
        self.psum_written = np.zeros(config.l1_psum_depth, np.bool_)
        # Those whose sums are not in ``psum`` yet; no two share an entry.
        self.chains: list[_Chain] = []
        self.shapes: dict[tuple[int, ...], TileShape] = {}

    def is_raw(self, body: Mapping[str, int]) -> bool:
        """Whether a TILE has weights without codewords."""
        return bool(body["raw"]) or not self.coded

    def shape(self, body: Mapping[str, int]) -> TileShape:
        """The shape of a TILE. Raises ValueError with what is wrong with its fields."""
        key = _SHAPE(body)
        found = self.shapes.get(key)
        if found is None:
            self._check_shape(body)
            found = self.shapes[key] = self._shape(body)
        return found

    def _shape(self, body: Mapping[str, int]) -> TileShape:
        A, B, D, Dr, width, height = (body[name] for name in ("A", "B", "D", "Dr", "width", "height"))
        row_writes = A * D * ((B - 1) * self.config.H + body["rows"])
        Ds = D // Dr
        counts = {
            "operations": height * width * A * B * D,
            "row_writes": row_writes,
            "l1_reads": height * (Ds + (width - 1) * min(body["advance_columns"], Ds)) * Dr * B,
        }
        return TileShape(row_writes, D * B * self.config.H, height * width, counts)

    def _check_shape(self, body: Mapping[str, int]) -> None:
        config = self.config
        loop = (1 << config.loop_bits) - 1
        A, B, D, Dr = (body[name] for name in ("A", "B", "D", "Dr"))
        for name, value, low, high in (
            ("A", A, 1, config.prf_depth),
            ("B*D", B * D, 1, config.arf_depth),
            ("A*B*D", A * B * D, 1, config.tile_weights),
            ("Dr", Dr, 1, max(D, 1)),
            ("rows", body["rows"], 1, config.H),
            ("width", body["width"], 1, loop),
            ("height", body["height"], 1, loop),
            ("codewords", body["codewords"], 0, config.k if config.features.codebook else 0),
            ("passes", body["passes"], 1, max(B, 1)),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, not {value}")
        if D % Dr or not 1 <= body["advance_columns"] <= D // Dr:
            if D % Dr:
                raise ValueError(f"Dr must divide D = {D}, not {Dr}")
            raise ValueError(f"advance_columns must be in 1..{D // Dr}, not {body['advance_columns']}")
        if B % body["passes"]:
            raise ValueError(f"passes must divide B = {B}, not {body['passes']}")
        if body["passes"] > 1 and body["rows"] != config.H:
            raise ValueError(f"rows must be {config.H} where passes > 1, not {body['rows']}")
        if body["shift"] and (config.weight_bits == 8 or not body["accumulate"]):
            raise ValueError("shift must be 0 where weights have 8 bits, and where nothing is accumulated")
        if body["codewords"] and (not body["start"] or self.is_raw(body)):
            raise ValueError("codewords must be 0 for raw weights and without start")

    # Activations

    def write_l1(self, base: int, values: NDArray[np.int8]) -> None:
        """Vectors of activations; the windows that hold any of them are forgotten."""
        stop = base + len(values)
        self.l1[base:stop] = values
        for key in [key for key, (_, low, high) in self.gathered.items() if low < stop and base <= high]:
            del self.gathered[key]

    def region(self, body: Mapping[str, int]) -> _Region:
        """Where the windows of a tile are. A vector was read at its own position, or at an earlier one and kept."""
        shape = _WINDOW(body)
        found = self.regions.get(shape)
        if found is not None:
            return found
        D, Dr, width, height, advance = (body[name] for name in ("D", "Dr", "width", "height", "advance_columns"))
        Ds, groups = D // Dr, body["B"] // body["passes"]
        position, ds = np.arange(width)[:, None], np.arange(Ds)
        kept = np.minimum(position, np.maximum(0, -(-(Ds - advance - ds) // advance)))
        column = (position - kept) * body["position_pitch"] + (ds + kept * advance) * body["ds_pitch"]
        words = (
            (np.arange(height) * body["line_pitch"])[:, None, None, None, None]
            + column[:, :, None, None]
            + (np.arange(Dr) * body["dr_pitch"])[:, None]
            + np.arange(groups) * body["b_pitch"]
        )  # [height, width, Ds, Dr, groups]
        found = self.regions[shape] = _Region(words.reshape(height * width, -1), int(words.min()), int(words.max()))
        return found

    def windows(self, body: Mapping[str, int], region: _Region) -> Windows:
        """The activations of a tile, from a region that is in L1.

        Raises
        ------
        ValueError
            Activations that no row of weights meets are not 0.
        """
        base, rows, words = body["l1_base"], body["rows"], region.words
        key = (base, *_WINDOW(body))
        if key in self.gathered:
            windows, _, _ = self.gathered[key]
        else:
            values = self.l1[base:].take(words, axis=0) if region.least >= 0 else self.l1[base + words]
            self.numbers += 1
            windows = Windows(self.numbers, values.reshape(len(words), -1))
            self._keep(windows.values)
            self.gathered[key] = windows, base + region.least, base + region.most
        if rows < self.config.H:
            groups = body["B"] // body["passes"]
            if windows.values.reshape(len(words), body["D"], groups, -1)[:, :, -1, rows:].any():
                raise ValueError(f"activations of rows {rows}..{self.config.H - 1} of the last row group must be 0")
        return windows

    def _keep(self, values: NDArray[np.float32]) -> None:
        """Note that so many bytes more are kept; where they are too many, forget the others."""
        if self.kept_bytes > _KEPT_BYTES:
            self.gathered.clear()
            self.joined.clear()
            self.kept_bytes = 0
        self.kept_bytes += values.nbytes

    # Sums

    def check_entries(self, body: Mapping[str, int], tile: TileShape) -> None:
        """Raises ValueError where a tile's sums do not fit their memory, or L2."""
        stop = body["psum_base"] + tile.positions * body["A"]
        if (body["accumulate"] or not body["last"]) and stop > len(self.psum):
            raise ValueError(f"psum entries must be in 0..{len(self.psum) - 1}, not {stop - 1}")
        if body["last"] and tile.positions * body["A"] * self.config.L > self.config.l2_bytes:
            shape = f"{body['height']} x {body['width']}"
            raise ValueError(f"positions of {body['A'] * self.config.L} channels must fit L2, not {shape} of them")

    def multiply(
        self, body: Mapping[str, int], tile: TileShape, weights: NDArray[np.int8], windows: Windows
    ) -> NDArray[np.int32] | None:
        """Run a tile. Returns its sums, ``[positions * A, L]``; None where they wait for those of the next tiles.

        Parameters
        ----------
        body, tile
            Its fields and its shape.
        weights
            int8 ``[D, B, A, H, L]``.
        windows
            Its activations.

        Raises
        ------
        ValueError
            It goes on with sums that no tile has written.
        """
        A, B, D, passes, H, L = body["A"], body["B"], body["D"], body["passes"], self.config.H, self.config.L
        groups = B // passes
        matrix: NDArray[Any] = weights.reshape(D, groups, passes, A, H, L)
        matrix = matrix[:, :, 0] if passes == 1 else matrix.sum(axis=2, dtype=np.int16)
        if A > 1:
            matrix = matrix.transpose(0, 1, 3, 2, 4)
        matrix = matrix.reshape(D * groups * H, A * L)

        start, stop = body["psum_base"], body["psum_base"] + tile.positions * A
        if body["accumulate"]:
            if not self.psum_written[start:stop].all():
                raise ValueError("accumulates psum entries that no TILE has written")
            chain = self._continued(start, stop, A * L)
            if body["shift"]:
                # Sums wrap, and so do those of the digits above once they are shifted.
                chain = _Chain(start, stop, self._sums(chain) << self.config.digit_bits)
        else:
            chain = _Chain(start, stop, None)
        factors = windows, matrix, tile.terms
        if body["last"]:
            # What a tile goes on with stays as it is.
            return self._sums(replace(chain, factors=[*chain.factors, factors]))
        chain.factors.append(factors)
        self.psum_written[start:stop] = True
        if self.together:
            if chain not in self.chains:
                self.settle(start, stop, written=True)
                self.chains.append(chain)
            return None
        own = self.psum[start:stop] = self._sums(chain)
        return own

    def _continued(self, start: int, stop: int, width: int) -> _Chain:
        """The tiles whose sums are in these entries."""
        for chain in self.chains:
            if (chain.start, chain.stop) == (start, stop) and chain.factors[0][1].shape[1] == width:
                return chain
        self.settle(start, stop)
        return _Chain(start, stop, self.psum[start:stop].copy())

    def settle(self, start: int, stop: int, written: bool = False) -> None:
        """Write the sums of tiles that share some of these entries; of ``written`` ones, what is left of them."""
        for chain in [x for x in self.chains if x.start < stop and start < x.stop]:
            self.chains.remove(chain)
            if not (written and start <= chain.start and chain.stop <= stop):
                self.psum[chain.start : chain.stop] = self._sums(chain)

    def _sums(self, chain: _Chain) -> NDArray[np.int32]:
        """Sums of the tiles of a chain, wrapped."""
        sums, first, factors = chain.before, 0, chain.factors
        while first < len(factors):
            last, terms = first + 1, factors[first][2]
            while last < len(factors) and terms + factors[last][2] <= _EXACT_TERMS:
                terms += factors[last][2]
                last += 1
            exact: Any = np.float32 if terms <= _EXACT_TERMS else np.float64
            activations = self._beside([x for x, _, _ in factors[first:last]]).astype(exact, copy=False)
            weights = np.concatenate([x for _, x, _ in factors[first:last]], dtype=exact)
            product = (activations @ weights).astype(np.int32).reshape(-1, self.config.L)
            sums = product if sums is None else sums + product
            first = last
        assert sums is not None
        unused = 32 - self.config.psum_width
        return sums << unused >> unused if unused else sums

    def _beside(self, windows: list[Windows]) -> NDArray[np.float32]:
        """Windows beside each other; they are kept, as the next output channels see them, too."""
        if len(windows) == 1:
            return windows[0].values
        key = tuple(x.number for x in windows)
        if key not in self.joined:
            found = np.concatenate([x.values for x in windows], axis=1)
            self._keep(found)
            self.joined[key] = found
        return self.joined[key]

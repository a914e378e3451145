"""One frozen dataclass describes one instance of the accelerator.

Source of the parameters: MVQ (arXiv 2412.10261) sections 5.1 to 5.3 and table 2. The names are the paper's letters:
``H`` rows take input channels, ``L`` columns produce output channels, a codeword has ``d`` elements, ``N`` of every
``M`` weights are kept, and the codebook has ``k`` codewords.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import comb, gcd
from typing import Any

from hw.layout import position_code_bits

__all__ = [
    "MASK_DECODERS",
    "PRESETS",
    "VARIANTS",
    "VECTOR_UNIT_FUNCTIONS",
    "AcceleratorConfig",
    "ConfigError",
    "Variant",
    "preset",
]


class ConfigError(ValueError):
    """A configuration that cannot be built. The message names the field, its value and the allowed range."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes one column of the paper's comparison from the next (MVQ section 7.2)."""

    #: Weights arrive as indices into a codebook register file (CRF); otherwise raw.
    codebook: bool
    #: An N:M mask, as its rank, comes with every subvector.
    mask: bool
    #: The tile has only Q = d*N/M multipliers a row, steered by the mask register file (MRF).
    sparse: bool
    #: Codewords are magnitudes 0..127 and every kept weight has a sign bit (SSVQ).
    sign: bool
    #: For listings.
    summary: str


VARIANTS: Mapping[str, Variant] = {
    "ws": Variant(False, False, False, False, "raw weights, weight stationary: one weight a PE, the next one waits"),
    "ews": Variant(False, False, False, False, "raw weights, dense tile: the baseline"),
    "ews-c": Variant(True, False, False, False, "plain vector quantisation, dense tile"),
    "ews-cm": Variant(True, True, False, False, "masked vector quantisation (MVQ), dense tile"),
    "ews-cms": Variant(True, True, True, False, "masked vector quantisation (MVQ), sparse tile"),
    "ews-ssvq": Variant(True, False, False, True, "sign-splitting vector quantisation (SSVQ), dense tile"),
    "ews-msvq": Variant(True, True, True, True, "masked and sign-split (MSVQ), sparse tile"),
    "ws-cms": Variant(True, True, True, False, "weight stationary, masked vector quantisation (MVQ), sparse tile"),
}

#: Variants that give a PE one weight a layer tile.
_WEIGHT_STATIONARY = ("ws", "ws-cms")

MASK_DECODERS = ("arithmetic", "table")

#: Masks of a look-up table: 8:16 has 12,870, and 16:32 would have 601 million. Emission takes time as their square, and
#: Amaranth's Switch 65,536 cases at most.
_MOST_MASKS = 1 << 15

#: What the vector unit has: pooling and addition; or also products, tables, moves of channels and upsampling.
VECTOR_UNIT_FUNCTIONS = ("basic", "full")


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _short(value: object) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, a list too deep
        return f"a long {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bits_for_range(count: int) -> int:
    """Bits that number ``count`` things: ceil(log2 count), and 0 for one thing."""
    return (count - 1).bit_length()


@dataclass(frozen=True)
class AcceleratorConfig:
    """Parameters of one accelerator instance.

    Parameters
    ----------
    variant
        One of :data:`VARIANTS`.
    H, L
        Rows (input channels) and columns (output channels) of the array, 1..256 each. ``L`` is a multiple of ``d``.
    d
        Elements of a codeword and columns of a tile, 1..64.
    k
        Codewords in the codebook register file, 2..4096. Not used by ``ews``.
    N, M
        N of every M weights along the output channels are kept, 1 <= N <= M <= 32; ``d`` is a multiple of ``M``. Used
        by the masked variants alone.
    weight_bits
        Bits of a weight in the WRF and at a multiplier, its sign included, 2..8. Elements of codewords have as many, or
        one less where their signs come apart. Raw weights that need more run digit by digit (:attr:`digit_bits`).
    wrf_depth, arf_depth, prf_depth
        Entries of the weight, activation and partial-sum register files, powers of two in 2..256. For every layer tile
        ``A*B*D <= wrf_depth``, ``B*D <= arf_depth`` and ``A <= prf_depth``. 16 weights a PE is the paper's (table 2);
        the other two depths are not published.
    psum_width
        Bits of a partial sum, 16..32. :func:`sw.golden.check_psum_width` proves for a layer that it cannot overflow.
    word_width
        Bits of a transfer on the packed weight streams, a multiple of 8 in 8..512. 64 is the paper's DMA width.
    loop_bits
        Bits of the loop bounds (positions of an output row, output rows) in a command, 4..16.
    mask_decoder
        How a mask rank becomes a mask: ``arithmetic`` (a chain of compare-and-subtract) or ``table`` (a look-up table
        of all masks, as the paper has it; of at most 32768).
    decoder_registers
        Pipeline registers inside each mask decoder, 0..8.
    mrf_register
        A pipeline register between the MRF and the demultiplexers. Sparse variants alone.
    product_register
        A pipeline register behind each multiplier.
    tree_register_levels
        A pipeline register behind every this many levels of the adder trees, 0..8; 0 for none. The presets' pipeline is
        cut for the paper's clock of 300 MHz, and of the size 64 for 500 MHz in a 45 nm library.
    psum_register
        Pipeline registers behind the PRF: with what the next operation accumulates to, and, as finished sums leave,
        before the addition of the sums of earlier tiles.
    scaler_register
        Two more pipeline registers in each lane of the requantiser and of the vector unit: inside the multipliers, and
        in the addition of their products.
    transfer_register
        Around the array: the length of the DMA writer's next burst comes from a register, as the reader's does, and the
        DMA reader and the activation reader count one ahead, so that what tells the end of a loop is compared alone.
    zero_gating
        A PE's operands hold where the weight or the activation is 0, so that nothing toggles (MVQ section 5.3). Costs a
        register for each PE's activation, and a cycle of latency.
    clock_gating
        Pipeline registers of the array and of the weight decoder take a value only in cycles in which one is on its way
        to them: an enable that synthesis makes into a clock gate, where the library has one.
    address_bits
        Bits of a DRAM byte address, 16..64.
    l2_bytes, l2_word_bytes
        The on-chip memory of feature maps: its size, at least 64 words, and its word, a power of two that divides H
        and L; 0 for the largest up to 64 bytes. Not of the core.
    l1_ifmap_bytes, l1_psum_bytes
        The two parts of L1: activation vectors of H bytes, and vectors of L partial sums. 256..2**24.
    post_lanes
        Output channels that are requantised a cycle, a divisor of L; 0 for the largest up to L/4.
    vector_lanes
        Channels that the vector unit computes a cycle, a divisor of the L2 word's bytes; 0 for half a word.
    vector_unit_functions
        ``basic``: pooling and addition. ``full``: also products of two maps, a table of 256 entries, concatenation and
        slices of channels, and upsampling by 2.
    burst_words
        Longest burst on the DRAM bus, a power of two in 1..256.
    fifo_words
        Words that each channel of the DMA reader can hold, a power of two in 2 * burst_words .. 4096.

    Raises
    ------
    ConfigError
        A field is out of range or two fields contradict each other.
    """

    variant: str = "ews-cms"
    H: int = 16
    L: int = 16
    d: int = 16
    k: int = 512
    N: int = 4
    M: int = 16
    weight_bits: int = 8
    wrf_depth: int = 16
    arf_depth: int = 8
    prf_depth: int = 8
    psum_width: int = 24
    word_width: int = 64
    loop_bits: int = 12
    mask_decoder: str = "arithmetic"
    decoder_registers: int = 0
    mrf_register: bool = False
    product_register: bool = True
    tree_register_levels: int = 6
    psum_register: bool = False
    scaler_register: bool = False
    transfer_register: bool = False
    zero_gating: bool = False
    clock_gating: bool = False
    address_bits: int = 32
    l2_bytes: int = 1 << 21
    l2_word_bytes: int = 0
    l1_ifmap_bytes: int = 1 << 16
    l1_psum_bytes: int = 1 << 16
    post_lanes: int = 0
    vector_lanes: int = 0
    vector_unit_functions: str = "basic"
    burst_words: int = 16
    fifo_words: int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            wanted: type = type(field.default)
            if type(value) is not wanted:
                raise ConfigError(f"{field.name} must be {wanted.__name__}, not {type(value).__name__} {_short(value)}")
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant must be one of {', '.join(VARIANTS)}, not {_short(self.variant)}")
        if self.mask_decoder not in MASK_DECODERS:
            raise ConfigError(
                f"mask_decoder must be one of {', '.join(MASK_DECODERS)}, not {_short(self.mask_decoder)}"
            )
        if self.vector_unit_functions not in VECTOR_UNIT_FUNCTIONS:
            raise ConfigError(
                f"vector_unit_functions must be one of {', '.join(VECTOR_UNIT_FUNCTIONS)}, not "
                f"{_short(self.vector_unit_functions)}"
            )
        for name, low, high in (
            ("H", 1, 256),
            ("L", 1, 256),
            ("d", 1, 64),
            ("k", 2, 4096),
            ("M", 1, 32),
            ("weight_bits", 2, 8),
            ("wrf_depth", 2, 256),
            ("arf_depth", 2, 256),
            ("prf_depth", 2, 256),
            ("psum_width", 16, 32),
            ("word_width", 8, 512),
            ("loop_bits", 4, 16),
            ("decoder_registers", 0, 8),
            ("tree_register_levels", 0, 8),
            ("address_bits", 16, 64),
            ("l2_bytes", 256, 1 << 30),
            ("l2_word_bytes", 0, 64),
            ("l1_ifmap_bytes", 256, 1 << 24),
            ("l1_psum_bytes", 256, 1 << 24),
            ("post_lanes", 0, 256),
            ("vector_lanes", 0, 64),
            ("burst_words", 1, 256),
            ("fifo_words", 2, 4096),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must be in {low}..{high}, not {_short(value)}")
        if not 1 <= self.N <= self.M:
            raise ConfigError(f"N must be in 1..M = 1..{self.M}, not {_short(self.N)}")
        for name in ("wrf_depth", "arf_depth", "prf_depth"):
            value = getattr(self, name)
            if not _is_power_of_two(value):
                raise ConfigError(f"{name} must be a power of two, not {value}")
        if self.word_width % 8:
            raise ConfigError(f"word_width must be a multiple of 8, not {self.word_width}")
        if self.L % self.d:
            raise ConfigError(f"L must be a multiple of d = {self.d}, not {self.L}")
        if self.features.mask and self.d % self.M:
            raise ConfigError(f"d must be a multiple of M = {self.M}, not {self.d}")
        if self.features.mask and self.mask_decoder == "table" and comb(self.M, self.N) > _MOST_MASKS:
            raise ConfigError(
                f"mask_decoder must be arithmetic where there are more than {_MOST_MASKS} masks, not 'table' for the"
                f" {comb(self.M, self.N)} of {self.N}:{self.M}"
            )
        word = self.l2_word_bytes
        if word and (not _is_power_of_two(word) or gcd(self.H, self.L) % word):
            raise ConfigError(f"l2_word_bytes must be a power of two that divides H and L, not {word}")
        for name, total, value in (
            ("post_lanes", self.L, self.post_lanes),
            ("vector_lanes", self.l2_word, self.vector_lanes),
        ):
            if value and total % value:
                raise ConfigError(f"{name} must divide {total}, not {value}")
        for name in ("burst_words", "fifo_words"):
            value = getattr(self, name)
            if not _is_power_of_two(value):
                raise ConfigError(f"{name} must be a power of two, not {value}")
        if self.fifo_words < 2 * self.burst_words:
            raise ConfigError(
                f"fifo_words must be at least 2 * burst_words = {2 * self.burst_words}, not {self.fifo_words}"
            )
        for name, width in (("l2_bytes", self.l2_word), ("l1_ifmap_bytes", self.H), ("l1_psum_bytes", self.psum_bytes)):
            value = getattr(self, name)
            least = 64 if name == "l2_bytes" else 4
            if value < least * width:
                raise ConfigError(f"{name} must be at least {least} words of {width} bytes, not {value}")

    # What the variant and the parameters imply

    @property
    def features(self) -> Variant:
        """The switches of :attr:`variant`."""
        return VARIANTS[self.variant]

    @property
    def tiles(self) -> int:
        """Tiles of H x d side by side: L/d, also the number of CRF read ports (MVQ section 5.2)."""
        return self.L // self.d

    @property
    def mask_groups(self) -> int:
        """N:M groups in one subvector: d/M, or 1 without masks."""
        return self.d // self.M if self.features.mask else 1

    @property
    def Q(self) -> int:
        """Weights kept of a subvector: d*N/M with masks, d without."""
        return self.d * self.N // self.M if self.features.mask else self.d

    @property
    def multipliers(self) -> int:
        """Multipliers of a tile row: Q in the sparse tile, d in the dense one (MVQ table 2)."""
        return self.Q if self.features.sparse else self.d

    @property
    def index_bits(self) -> int:
        """Bits of an assignment: ceil(log2 k), or 0 for raw weights."""
        return _bits_for_range(self.k) if self.features.codebook else 0

    @property
    def mask_bits(self) -> int:
        """Bits of the mask rank of one N:M group: ceil(log2 C(M, N)), or 0 without masks."""
        return _bits_for_range(comb(self.M, self.N)) if self.features.mask else 0

    @property
    def position_bits(self) -> int:
        """Bits of the position of a kept weight: ceil(log2 M), or 0 in a dense tile."""
        return _bits_for_range(self.M) if self.features.sparse else 0

    @property
    def mrf_width(self) -> int:
        """Bits of an MRF entry: a position code (:func:`hw.layout.position_code`) for each N:M group; 0 if dense."""
        return self.mask_groups * position_code_bits(self.N, self.M) if self.position_bits else 0

    @property
    def element_bits(self) -> int:
        """Bits of one element of a codeword: ``weight_bits``, or one less for magnitudes of a sign-split codebook."""
        return self.weight_bits - int(self.features.sign)

    @property
    def digit_bits(self) -> int:
        """Bits by which a digit of raw weights stands above the next one.

        Raw weights that do not fit ``weight_bits`` are a sum of digits that do, each times ``2**digit_bits`` more than
        the next. Digits are -2**(digit_bits-1)..2**(digit_bits-1)-1 of ``weight_bits`` bits; with sign-split weights,
        whose array has no place for -2**(weight_bits-1), they are -(2**digit_bits-1)..2**digit_bits-1.
        """
        return self.element_bits

    @property
    def product_width(self) -> int:
        """Bits of a signed product with an int8 activation.

        The product of the two least values needs ``weight_bits + 8``, for -128 * -128 16; sign-split weights have as
        many negative values as positive ones, -127..127 of 8 bits, and need one bit less.
        """
        return self.weight_bits + 8 - int(self.features.sign)

    @property
    def psum_bytes(self) -> int:
        """Bytes of a vector of L partial sums in L1."""
        return -(-self.L * self.psum_width // 8)

    @property
    def l2_word(self) -> int:
        """Bytes of an L2 word."""
        return self.l2_word_bytes or min(64, gcd(self.H, self.L) & -gcd(self.H, self.L))

    @property
    def l2_bits(self) -> int:
        """Bits of an L2 word."""
        return 8 * self.l2_word

    @property
    def l2_depth(self) -> int:
        """Words of L2."""
        return self.l2_bytes // self.l2_word

    @property
    def l1_ifmap_depth(self) -> int:
        """Activation vectors that L1 holds."""
        return self.l1_ifmap_bytes // self.H

    @property
    def l1_psum_depth(self) -> int:
        """Vectors of partial sums that L1 holds."""
        return self.l1_psum_bytes // self.psum_bytes

    @property
    def requantiser_lanes(self) -> int:
        """Output channels that are requantised a cycle."""
        return self.post_lanes or max(x for x in range(1, max(1, self.L // 4) + 1) if self.L % x == 0)

    @property
    def vector_unit_lanes(self) -> int:
        """Channels that the vector unit computes a cycle."""
        return self.vector_lanes or max(1, self.l2_word // 2)

    @property
    def full_vector_unit(self) -> bool:
        """The vector unit has all its functions."""
        return self.vector_unit_functions == "full"

    @property
    def raw_bits(self) -> int:
        """Bits of raw weights, or of one digit of them, of one row write: those of all multipliers of a row."""
        return self.weight_bits * self.multipliers * self.tiles

    @property
    def tree_levels(self) -> int:
        """Levels of the adder tree over H products."""
        return _bits_for_range(self.H)

    @property
    def tree_registers(self) -> int:
        """Pipeline registers from the first to the last level of an adder tree."""
        return self.tree_levels // self.tree_register_levels if self.tree_register_levels else 0

    @property
    def product_latency(self) -> int:
        """Cycles from the issue of an array operation to its products at the adder trees."""
        return 1 + int(self.zero_gating) + int(self.product_register)

    @property
    def latency(self) -> int:
        """Cycles from the issue of an array operation to the edge that writes its sum to the PRF, that edge included.

        One for the operand registers, two with zero gating, one for the product register where there is one, the tree's
        registers, and the PRF.
        """
        return self.product_latency + self.tree_registers + 1

    @property
    def drain_latency(self) -> int:
        """Cycles from the issue of an array operation to the earliest one in which its finished sum leaves the core."""
        return self.latency + int(self.psum_register)

    @property
    def psum_entries(self) -> int:
        """Finished sums that can wait in the core: in the PRF, and in the register behind it."""
        return self.prf_depth + int(self.psum_register)

    @property
    def scaler_latency(self) -> int:
        """Cycles that :attr:`scaler_register` adds to those of the requantiser and of the vector unit."""
        return 2 * int(self.scaler_register)

    @property
    def streams(self) -> Mapping[str, int]:
        """Packed fields and the bits that each gives one row of the array: ``{name: bits}``.

        ``weight`` for raw weights; otherwise ``index`` and, as the variant has them, ``mask`` and ``sign``. Bit
        layouts: :mod:`hw.layout`. Rows of raw weights in a variant with a codebook: :attr:`raw_streams`.
        """
        if not self.features.codebook:
            return self.raw_streams
        widths = {
            "index": self.index_bits * self.tiles,
            "mask": self.mask_bits * self.mask_groups * self.tiles,
            "sign": (self.Q if self.features.sign else 0) * self.tiles,
        }
        return {name: bits for name, bits in widths.items() if bits}

    @property
    def tile_weights(self) -> int:
        """Most weights that a layer tile gives a PE, A*B*D: all of the WRF, but 1 in ``ws``; the others wait there."""
        return 1 if self.variant in _WEIGHT_STATIONARY else self.wrf_depth

    @property
    def raw_streams(self) -> Mapping[str, int]:
        """As :attr:`streams`, for rows of raw weights; in the sparse tile their positions come as masks."""
        masks = self.mask_bits * self.mask_groups * self.tiles if self.features.sparse else 0
        return {"weight": self.raw_bits, **({"mask": masks} if masks else {})}

    @property
    def channels(self) -> tuple[str, ...]:
        """Input streams of weights: ``weight``, and ``mask`` and ``sign`` where the variant has them."""
        return ("weight", *(name for name in ("mask", "sign") if name in self.streams))

    @property
    def decoder_stages(self) -> int:
        """Cycles from the fields of a row write to the write of the row."""
        if not self.features.codebook:
            return 1
        return 3 + (self.decoder_registers if self.features.mask else 0)

    # Dictionaries and overrides

    def to_dict(self) -> dict[str, Any]:
        """All fields, in order, as plain Python values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AcceleratorConfig:
        """The reverse of :meth:`to_dict`.

        Raises
        ------
        ConfigError
            A field is unknown, or a value is refused.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ConfigError(f"unknown field {name!r}; the fields are {', '.join(known)}")
        return cls(**fields)

    def override(self, assignments: Iterable[str]) -> AcceleratorConfig:
        """This configuration with ``field=value`` strings applied, as given to ``--set``.

        Values are read as JSON where they parse as JSON (numbers, ``true``, ``false``) and as text otherwise.

        Raises
        ------
        ConfigError
            An assignment has no ``=``, names an unknown field or one that another names, or the resulting
            configuration is refused.
        """
        fields, given = self.to_dict(), dict[str, str]()
        for assignment in assignments:
            name, equals, text = assignment.partition("=") if isinstance(assignment, str) else ("", "", "")
            if not equals:
                raise ConfigError(f"expected field=value, not {_short(assignment)}")
            if name not in fields:
                raise ConfigError(f"unknown field {_short(name)}; the fields are {', '.join(fields)}")
            if name in given:
                raise ConfigError(f"{name} is given twice, as {_short(given[name])} and {_short(text)}; give it once")
            given[name] = text
            # Text that is no JSON, a number of too many digits, lists in too many lists: refused below as text.
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = text
            fields[name] = value
        return AcceleratorConfig(**fields)


def _presets() -> dict[str, AcceleratorConfig]:
    # Codebooks at equal bits a weight (1.25): MVQ tables 3 and 5 for C, CM and CMS; DESIGN's choice for MSVQ; SSVQ's
    # DeiT-T setting, the only one whose k and d are known.
    codebooks: dict[str, dict[str, Any]] = {
        # Two weights a PE, of which one computes and one loads; two activation vectors and, as a sum leaves after every
        # operation, as many sums as the pipeline needs for one operation a cycle. That is more than its latency: 4 at
        # 64, else 3.
        "ws": {"d": 16, "k": 2, "N": 16, "M": 16, "wrf_depth": 2, "arf_depth": 2, "prf_depth": 4},
        "ews": {"d": 16, "k": 2, "N": 16, "M": 16},
        "ews-c": {"d": 8, "k": 1024, "N": 8, "M": 8},
        "ews-cm": {"d": 16, "k": 512, "N": 4, "M": 16},
        "ews-cms": {"d": 16, "k": 512, "N": 4, "M": 16},
        "ews-ssvq": {"d": 8, "k": 16, "N": 8, "M": 8},
        "ews-msvq": {"d": 16, "k": 32, "N": 4, "M": 16},
        # For networks with gates, concatenation and upsampling.
        "ews-msvq-full": {"d": 16, "k": 32, "N": 4, "M": 16, "vector_unit_functions": "full"},
        # Weights of 4 bits. 2:8 keeps as many weights as 4:16 at equal accuracy, and its positions are shorter.
        "ews4": {"d": 16, "k": 2, "N": 16, "M": 16, "weight_bits": 4},
        "ews-msvq4": {"d": 16, "k": 32, "N": 2, "M": 8, "weight_bits": 4},
        # MVQ figure 17: the sparse tile and the codebook without the extensions of EWS. The depths are those of ws.
        "ws-cms": {"d": 16, "k": 512, "N": 4, "M": 16, "wrf_depth": 2, "arf_depth": 2, "prf_depth": 4},
    }
    presets: dict[str, AcceleratorConfig] = {}
    for name, codebook in codebooks.items():
        variant = name.removesuffix("4").removesuffix("-full")
        for size in (16, 32, 64):
            # MVQ section 5.1: L1 of 128 KB for 16 x 16, 256 KB for the larger ones.
            l1 = (1 << 16) if size == 16 else (1 << 17)
            if variant in _WEIGHT_STATIONARY and size == 64:
                codebook = {**codebook, "prf_depth": 8}
            # 500 MHz: `make synth` shows the delays. Trees of 64 rows have one register in either case.
            pipeline: dict[str, Any] = {"tree_register_levels": 4, "decoder_registers": 3} if size == 64 else {}
            presets[f"{name}-{size}"] = AcceleratorConfig(
                variant=variant, H=size, L=size, l1_ifmap_bytes=l1, l1_psum_bytes=l1, **codebook, **pipeline
            )
        tiny = {"d": 4, "k": 8, "N": 2 if VARIANTS[variant].mask else 4, "M": 4}
        presets[f"{name}-tiny"] = AcceleratorConfig(
            variant=variant,
            H=4,
            L=8,
            word_width=16,
            psum_width=20,
            l2_bytes=1 << 14,
            l1_ifmap_bytes=1 << 10,
            l1_psum_bytes=1 << 12,
            burst_words=4,
            fifo_words=16,
            **(codebook | tiny),
        )
    # An array for 500 MHz with a tenth of the cycle left, in a 45 nm library: products meet the first tree register
    # after two levels, and their positions come from a register.
    for name in ("ews-cms", "ews-msvq", "ews-msvq4"):
        presets[f"{name}-500mhz"] = dataclasses.replace(
            presets[f"{name}-64"], tree_register_levels=2, mrf_register=True
        )
    # One for 800 MHz with that tenth: registers in all that takes longer than the narrow multipliers.
    presets["ews-msvq4-800mhz"] = dataclasses.replace(
        presets["ews-msvq4-500mhz"],
        tree_register_levels=1,
        psum_register=True,
        scaler_register=True,
        transfer_register=True,
    )
    # For FPGAs: register files of 16 entries, the depth of distributed RAM there; memories that few block RAMs hold;
    # pipeline registers, as look-up tables and wires are slow.
    presets["ews-msvq-fpga"] = AcceleratorConfig(
        variant="ews-msvq",
        H=8,
        L=8,
        d=8,
        k=32,
        N=2,
        M=8,
        arf_depth=16,
        prf_depth=16,
        word_width=32,
        decoder_registers=2,
        mrf_register=True,
        tree_register_levels=1,
        address_bits=24,
        l2_bytes=1 << 14,
        l1_ifmap_bytes=1 << 12,
        l1_psum_bytes=1 << 13,
        burst_words=8,
        fifo_words=16,
    )
    return presets


#: Named configurations: ``<variant>-<16|32|64>`` for an array of that many rows and columns, ``<variant>-tiny`` for
#: tests; ``ews4`` and ``ews-msvq4`` are ``ews`` and ``ews-msvq`` with weights of 4 bits, ``ews-msvq-full`` is
#: ``ews-msvq`` with all functions of the vector unit; ``ews-msvq-fpga`` is for FPGAs; ``ews-cms-500mhz``,
#: ``ews-msvq-500mhz``, ``ews-msvq4-500mhz`` and ``ews-msvq4-800mhz`` are those of the size 64 with more pipeline
#: registers.
PRESETS: Mapping[str, AcceleratorConfig] = _presets()


def preset(name: str) -> AcceleratorConfig:
    """The preset of that name.

    Raises
    ------
    ConfigError
        No preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {_short(name)}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]

"""One row of a tile: the processing elements that share an input channel (MVQ section 5.3)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from hw.array.position_encoder import decode_positions
from hw.config import AcceleratorConfig
from hw.emission import shared
from hw.layout import position_code_bits
from hw.memory.register_file import RegisterFile

__all__ = ["Demux", "Multiplier", "TileRow", "optional_members"]

#: Most bits of a weight of which one row for each bit is smaller than a Booth multiplier: with product register and 45
#: nm cells 204 instead of 221 um2 for 4 bits, 266 instead of 285 for 5, but 317 instead of 302 for 6.
_MOST_ROWS = 5


class Multiplier(wiring.Component):
    """Signed multiplier of a weight and an 8-bit activation, with a register for the weight and an optional one behind.

    The activation's operand register is shared by a whole array row and is outside, unless the multiplier is gated:
    then both operands are registered here, and where either is 0 all registers hold and the product is forced to 0, so
    that nothing in the multiplier toggles (MVQ section 5.3).

    Parameters
    ----------
    width
        Bits of the product.
    registered
        There is a product register.
    gated
        Hold where an operand is 0.
    weight_bits
        Bits of the weight.
    enabled
        Operands and product hold unless their bit of ``i_enable`` is high.

    Members
    -------
    i_weight
        ``weight_bits`` bits, two's complement.
    i_activation
        8 bits, two's complement: in the cycle after ``i_weight``, or in its cycle if gated.
    i_enable
        If enabled: bit 0 for the operands, bit 1 for the product register, where there is one.
    o_product
        ``width`` bits, two's complement.
    """

    def __init__(
        self, width: int, registered: bool, gated: bool = False, weight_bits: int = 8, enabled: bool = False
    ) -> None:
        self.width, self.registered, self.gated, self.weight_bits = width, registered, gated, weight_bits
        self.enabled = enabled
        members = {"i_weight": In(weight_bits), "i_activation": In(8), "o_product": Out(width)}
        super().__init__(members | ({"i_enable": In(1 + int(registered))} if enabled else {}))

    @staticmethod
    def _product(weight: Value, activation: Value) -> Value:
        signed = activation.as_signed()
        if len(weight) > _MOST_ROWS:
            return weight.as_signed() * signed
        rows = [(signed & bit.replicate(len(signed)).as_signed()) << place for place, bit in enumerate(weight)]
        return sum(rows[1:-1], rows[0]) - rows[-1]

    def elaborate(self, platform):
        m = Module()
        weight = Signal(self.weight_bits, reset_less=True)
        product = Signal(self.width)
        held = Signal(self.width, reset_less=True)

        def take(stage, *assignments):
            if not self.enabled:
                m.d.sync += assignments
                return
            with m.If(self.i_enable[stage]):
                m.d.sync += assignments

        if not self.gated:
            take(0, weight.eq(self.i_weight))
            m.d.comb += product.eq(self._product(weight, self.i_activation))
            if self.registered:
                take(1, held.eq(product))
            m.d.comb += self.o_product.eq(held if self.registered else product)
            return m

        activation = Signal(8, reset_less=True)
        zero = Signal(reset_less=True)
        take(0, zero.eq((self.i_weight == 0) | (self.i_activation == 0)))
        with m.If(self.i_weight.any() & self.i_activation.any()):
            take(0, weight.eq(self.i_weight), activation.eq(self.i_activation))
        m.d.comb += product.eq(self._product(weight, activation))
        self._held = [weight, activation, held]  # for tests
        if self.registered:
            with m.If(~zero):
                take(1, held.eq(product))
            product, zero_before = held, zero
            zero = Signal(name="product_zero", reset_less=True)
            take(1, zero.eq(zero_before))
        m.d.comb += self.o_product.eq(product & ~zero.replicate(self.width))
        return m


class Demux(wiring.Component):
    """Steers the N products of one N:M group to the M lanes. Combinational.

    Positions are in ascending order, so product i can only reach lanes i..M-N+i, and a lane has no gates for the
    others.

    Members
    -------
    i_products
        N x ``width`` bits.
    i_positions
        Their positions, as a position code (:mod:`hw.array.position_encoder`).
    o_lanes
        M x ``width`` bits, zero where no product goes.
    """

    def __init__(self, n: int, m: int, width: int) -> None:
        self.n, self.m, self.width = n, m, width
        super().__init__(
            {"i_products": In(n * width), "i_positions": In(position_code_bits(n, m)), "o_lanes": Out(m * width)}
        )

    def elaborate(self, platform):
        m = Module()
        positions = decode_positions(self.i_positions, self.n, self.m)
        lanes = []
        for lane in range(self.m):
            value = 0
            for i in range(max(0, lane - (self.m - self.n)), min(self.n, lane + 1)):
                here = positions[i] == lane
                value = value | (self.i_products.word_select(i, self.width) & here.replicate(self.width))
            lanes.append(value)
        m.d.comb += self.o_lanes.eq(Cat(lanes))
        return m


def optional_members(config: AcceleratorConfig) -> dict[str, Member]:
    """Members of a row, and of a tile of them, that sparse instances and those with clock gating have."""
    members = {}
    if config.position_bits:
        members["i_write_positions"] = In(config.mrf_width)
        members["i_mrf_address"] = In((config.wrf_depth - 1).bit_length())
    if config.clock_gating:
        members["i_issued"] = In(config.latency - 1)
    return members


class TileRow(wiring.Component):
    """The weights of one input channel and ``d`` output channels, and the multipliers for them.

    Dense: ``d`` multipliers, one a lane. Sparse: Q multipliers, a mask register file (MRF) with the position of each
    of the Q weights, and demultiplexers to the ``d`` lanes. Both read one WRF entry a cycle. The MRF is read when the
    products are there, or one cycle before with an MRF register, which saves registers that would carry the positions
    beside them.

    Members
    -------
    i_write, i_write_address, i_write_weights, i_write_positions
        Writes one entry: ``multipliers`` x ``weight_bits`` bits, and in the sparse row the position codes of its N:M
        groups.
    i_address
        The WRF entry to read.
    i_mrf_address
        The WRF entry of the operation that was issued :attr:`hw.config.AcceleratorConfig.product_latency` cycles ago,
        one less with an MRF register. Sparse rows only.
    i_activation
        8 bits, one cycle after ``i_address``; in its cycle with zero gating.
    i_issued
        With clock gating, as for :class:`hw.array.tile.Tile`.
    o_products
        ``d`` x ``product_width`` bits. With a product register one cycle after ``i_activation``, else in its cycle;
        with zero gating one more.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        count = config.multipliers
        address = (config.wrf_depth - 1).bit_length()
        members = {
            "i_write": In(1),
            "i_write_address": In(address),
            "i_write_weights": In(config.weight_bits * count),
            "i_address": In(address),
            "i_activation": In(8),
            "o_products": Out(config.d * config.product_width),
        }
        super().__init__(members | optional_members(config))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        count, width, bits = config.multipliers, config.product_width, config.weight_bits

        def register_file(width, data, address):
            file = RegisterFile(config.wrf_depth, width)
            m.d.comb += [
                file.i_write.eq(self.i_write),
                file.i_write_address.eq(self.i_write_address),
                file.i_write_data.eq(data),
                file.i_address_0.eq(address),
            ]
            return file

        m.submodules.wrf = wrf = register_file(bits * count, self.i_write_weights, self.i_address)
        products = []
        for i in range(count):
            multiplier = Multiplier(width, config.product_register, config.zero_gating, bits, config.clock_gating)
            m.submodules[f"multiplier_{i}"] = shared(multiplier, platform)
            m.d.comb += [
                multiplier.i_weight.eq(wrf.o_data_0.word_select(i, bits)),
                multiplier.i_activation.eq(self.i_activation),
            ]
            if config.clock_gating:
                m.d.comb += multiplier.i_enable.eq(self.i_issued[int(config.zero_gating) :])
            products.append(multiplier.o_product)

        if not config.position_bits:
            m.d.comb += self.o_products.eq(Cat(products))
            return m

        m.submodules.mrf = mrf = register_file(config.mrf_width, self.i_write_positions, self.i_mrf_address)
        positions = mrf.o_data_0
        if config.mrf_register:
            positions = Signal(config.mrf_width, reset_less=True)
            if config.clock_gating:
                with m.If(self.i_issued[config.product_latency - 1]):
                    m.d.sync += positions.eq(mrf.o_data_0)
            else:
                m.d.sync += positions.eq(mrf.o_data_0)
        code = config.mrf_width // config.mask_groups
        lanes = []
        for group in range(config.mask_groups):
            demux = Demux(config.N, config.M, width)
            m.submodules[f"demux_{group}"] = shared(demux, platform)
            first = group * config.N
            m.d.comb += [
                demux.i_products.eq(Cat(products[first : first + config.N])),
                demux.i_positions.eq(positions.word_select(group, code)),
            ]
            lanes.append(demux.o_lanes)
        m.d.comb += self.o_products.eq(Cat(lanes))
        return m

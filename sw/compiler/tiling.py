"""How a convolution is cut: extensions of the loop nest, strips of output positions, and what L1 holds at a time.

A layer runs strip by strip: some output rows (or a part of one row, where L1 holds no more). In a strip all output
groups come one after the other, and the weights are fetched again for each strip. L1 holds the part of the input that
a strip reads, and beside it that of the next strip where there is room. Where L1 cannot hold all channels of a strip,
each range of row groups is copied when it is needed (streaming), again for each output group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from math import ceil

from hw.config import AcceleratorConfig
from sw.compiler.graph import CompileError, Convolution, Value
from sw.compiler.weights import Tile, Weights
from sw.schedule.choice import candidate_schedules

__all__ = ["Geometry", "Plan", "Strip", "Work", "choose_plan", "plan_for", "strips", "tiles"]

#: Cycles beyond the fewest, as a part of them, that a plan may take if it saves accesses to L1.
TOLERANCE = 0.01
#: COPYs that bring the input of a strip, where L1 holds all of it: the first tiles start before the last COPY.
CHUNKS = 4
#: Numbers of strips that are tried, as multiples of the least.
PARTS = (1, 2, 3, 4, 6)
#: Cycles of the sequencer for each descriptor, beside its words on the bus; of the array between two tiles, and between
#: two strips.
DESCRIPTOR_CYCLES, TILE_CYCLES, STRIP_CYCLES = 7, 3, 60
#: Cycles from a free place in a channel's FIFO to the word for it.
READ_LATENCY = 24


@dataclass(frozen=True)
class Geometry:
    """The input of a convolution as COPY and TILE see it.

    A kernel of one row needs every stride-th input row alone: then the tensor's rows are counted in strides, and the
    stride is 1. The same for columns.
    """

    #: Of the tensor, counted that way.
    rows: int
    columns: int
    #: Tensor rows and columns to a counted one.
    row_step: int
    column_step: int
    #: (rows, columns), counted that way.
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    #: E and F.
    output: tuple[int, int]

    @classmethod
    def of(cls, convolution: Convolution, source: Value, target: Value) -> Geometry:
        """The geometry of a convolution between two values."""
        counted = []
        for extent, kernel, stride, padding in zip(
            (source.rows, source.columns),
            convolution.shape[2:],
            convolution.stride,
            convolution.padding,
            strict=True,
        ):
            step = stride if kernel == 1 and padding % stride == 0 else 1
            counted.append((-(-extent // step), step, stride // step, padding // step))
        (rows, row_step, *down), (columns, column_step, *across) = counted
        return cls(
            rows=rows,
            columns=columns,
            row_step=row_step,
            column_step=column_step,
            kernel=convolution.shape[2:],
            stride=(down[0], across[0]),
            padding=(down[1], across[1]),
            dilation=convolution.dilation,
            output=(target.rows, target.columns),
        )

    def region(self, axis: int, positions: int) -> int:
        """Input rows (axis 0) or columns (axis 1) under so many output positions."""
        return (positions - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @property
    def slides(self) -> bool:
        """Whether the window slides along a row: with a column dilation it has gaps, which slide past each other."""
        return self.dilation[1] == 1


@dataclass(frozen=True)
class Work:
    """What the cycles of a convolution depend on, beside its geometry: all of it but the weights' values."""

    #: The instance.
    config: AcceleratorConfig
    #: ``[K, C, R, S]``; C are all input channels, also of a grouped convolution.
    shape: tuple[int, int, int, int]
    #: Decoded in hardware.
    coded: bool
    #: Of its codebook, 0 for raw weights: how many, and bits of each.
    codewords: int
    codeword_width: int
    #: Passes that each row group takes, and digits of each weight.
    passes: int
    digits: int
    #: Channels of the weight streams, and bits of each in one row write.
    bits: tuple[tuple[str, int], ...]
    #: Each output channel reads only some of the input channels.
    banded: bool
    #: First and behind the last row group of H input channels that each group of L output channels reads.
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, weights: Weights) -> Work:
        """The work of these weights."""
        config, layer = weights.config, weights.convolution.layer
        coded = weights.coded and layer is not None
        ranges = [weights.row_groups(i) for i in range(weights.output_groups)]
        return cls(
            config=config,
            shape=weights.convolution.shape,
            coded=weights.coded,
            codewords=layer.k if coded and layer is not None else 0,
            codeword_width=layer.d * config.element_bits if coded and layer is not None else 0,
            passes=weights.passes,
            digits=weights.digits,
            bits=tuple(weights.bits.items()),
            banded=weights.banded,
            groups=tuple((found.start, found.stop) for found in ranges),
        )

    @cached_property
    def group_counts(self) -> list[int]:
        """Row groups that each group of output channels reads."""
        return [stop - start for start, stop in self.groups]


@dataclass(frozen=True)
class Plan:
    """How a convolution is cut."""

    #: Extensions of the loop nest (MVQ figure 7); B counts row groups of input channels.
    A: int
    B: int
    Dr: int
    Ds: int
    #: Passes of raw weights on a sparse array in one TILE.
    passes: int
    #: Output positions of a strip.
    height: int
    width: int
    #: Row groups that one COPY brings.
    chunk: int
    #: Copy the chunks again for each A groups of output channels.
    streaming: bool
    #: Estimate for the layer.
    cycles: float


@dataclass(frozen=True)
class Strip:
    """Output rows ``e .. e+height-1`` and columns ``f .. f+width-1``."""

    e: int
    f: int
    height: int
    width: int


def strips(geometry: Geometry, plan: Plan) -> Iterator[Strip]:
    """The strips of a layer in order."""
    E, F = geometry.output
    for e in range(0, E, plan.height):
        for f in range(0, F, plan.width):
            yield Strip(e, f, min(plan.height, E - e), min(plan.width, F - f))


def tiles(weights: Weights, plan: Plan) -> list[list[Tile]]:
    """The tiles of a strip: for each set of A output groups those that add to its sums, in order."""
    convolution, H = weights.convolution, weights.config.H
    _, C, R, S = convolution.shape
    sets = []
    for i in range(0, weights.output_groups, plan.A):
        found: list[Tile] = []
        groups = weights.row_groups(i)
        chunks = -(-len(groups) // plan.chunk)
        parts = product(
            range(weights.digits),
            range(groups.start, groups.stop, plan.B),
            range(0, R, plan.Dr),
            range(0, S, plan.Ds),
            range(0, weights.passes, plan.passes),
        )
        for digit, g, r0, s0, p0 in parts:
            B = min(plan.B, groups.stop - g)
            passes = min(plan.passes, weights.passes - p0)
            # Chunks that come in turn come again for each digit.
            turn = digit * chunks if plan.streaming and chunks > 1 else 0
            found.append(
                Tile(
                    i=i,
                    A=min(plan.A, weights.output_groups - i),
                    g=g,
                    B=B,
                    r0=r0,
                    s0=s0,
                    Dr=plan.Dr,
                    Ds=plan.Ds,
                    p0=p0,
                    passes=passes,
                    # In several passes, absent rows are written as zeros.
                    rows=H if passes > 1 else min(H, C - (g + B - 1) * H),
                    first=not found,
                    last=False,
                    chunk=turn + (g - groups.start) // plan.chunk,
                    digit=digit,
                    shift=bool(found) and found[-1].digit != digit,
                )
            )
        found[-1] = replace(found[-1], last=True)
        sets.append(found)
    return sets


@dataclass(frozen=True)
class _Schedule:
    A: int
    B: int
    Dr: int
    Ds: int
    passes: int


def _schedules(work: Work) -> Iterator[_Schedule]:
    """All extensions that the register files hold and that do not exceed the layer."""
    config = work.config
    K, _, R, S = work.shape
    # Output groups of a banded convolution read other row groups, so each has its own tiles.
    shape = (1 if work.banded else K, max(work.group_counts) * config.H, R, S)
    # All passes in one tile, where they fit: fewer sums to keep.
    for passes in sorted({1, work.passes}):
        for found in candidate_schedules(config, shape, passes):
            yield _Schedule(found.A, found.B, found.Dr, found.Ds, passes)


class _Model:
    """Cycles of a convolution, in closed form; what is counted is what differs between plans.

    A tile takes as long as its operations, or as its weights where they come slower. Weights of the next tile load into
    WRF entries that the running tile leaves free; what does not fit there loads between the two. The last tile of a
    group can be held up by the storer. The bus brings all words of all streams.
    """

    def __init__(self, work: Work, geometry: Geometry) -> None:
        self.work, self.geometry = work, geometry
        config = work.config
        words = [bits / config.word_width for _, bits in work.bits]
        # Words a cycle that one channel brings: a burst is asked for when there is room for it.
        rate = min(1.0, config.fifo_words / (config.burst_words + READ_LATENCY))
        # Cycles of a row write, and its words on the bus; cycles of the codebook.
        self.row_cycles, self.row_words = max(1.0, max(words) / rate), sum(words)
        self.codebook = work.codewords * work.codeword_width / config.word_width / rate
        self.copy_words = config.H // config.l2_word
        # Sums a cycle that the storer takes, 1 / this.
        self.store = max(config.L / config.requantiser_lanes, config.L / config.l2_word)
        self.descriptor = 512 / config.word_width
        self.parameters = 12 * config.L * len(work.groups) / (config.word_width / 8)
        self.group_counts = work.group_counts
        self.wrf_depth = config.wrf_depth
        self.C = work.shape[1]
        self.found: dict[tuple[int, int, int], tuple[int, int] | None] = {}

    def tile(self, schedule: _Schedule, positions: float, A: int, B: int, rows: int, last: bool) -> tuple[float, float]:
        """Cycles, and words on the bus, of one tile; ``rows`` in all its row groups together, each pass."""
        D = schedule.Dr * schedule.Ds
        entries = A * B * schedule.passes * D
        operations = positions * max(entries, A * self.store if last else 0)
        loads = A * D * rows * schedule.passes
        held = min(1.0, max(0, 2 * entries - self.wrf_depth) / entries)
        cycles = loads * self.row_cycles
        total = operations + held * cycles + max(0.0, (1 - held) * cycles - operations) + TILE_CYCLES
        return max(total, self.descriptor + DESCRIPTOR_CYCLES), loads * self.row_words + self.descriptor

    def strip(self, schedule: _Schedule, positions: float) -> tuple[float, float, int]:
        """Cycles of the array, words on the bus, and tiles, of a strip of so many positions."""
        work, H = self.work, self.work.config.H
        _, _, R, S = work.shape
        kernel = (R // schedule.Dr) * (S // schedule.Ds) * (-(-work.passes // schedule.passes)) * work.digits
        cycles = words = 0.0
        count = 0
        groups_k = len(work.groups)
        if work.banded:
            kinds = [(1, groups, times) for groups, times in Counter(self.group_counts).items()]
        else:
            kinds = [(schedule.A, self.group_counts[0], groups_k // schedule.A)]
            if groups_k % schedule.A:
                kinds.append((groups_k % schedule.A, self.group_counts[0], 1))
        for A, groups, times in kinds:
            full, rest = divmod(groups, schedule.B)
            # The last row group may have fewer rows.
            tail = H if schedule.passes > 1 or work.banded else self.C - (groups - 1) * H
            B = rest or schedule.B
            inside = (full if rest else full - 1) * kernel
            for rows, row_groups, number, is_last in (
                (schedule.B * H, schedule.B, inside, False),
                ((B - 1) * H + tail, B, kernel - 1, False),
                ((B - 1) * H + tail, B, 1, True),
            ):
                if number:
                    one, bus = self.tile(schedule, positions, A, row_groups, rows, is_last)
                    cycles += times * number * one
                    words += times * number * bus
            count += times * (inside + kernel)
        return cycles, words, count

    def plan(self, schedule: _Schedule) -> Iterator[Plan]:
        """Plans with these extensions: the largest strips that fit, with and without room for two in L1."""
        config, geometry, work = self.work.config, self.geometry, self.work
        E, F = geometry.output
        limit = (1 << config.loop_bits) - 1
        _, _, tile_count = self.strip(schedule, 1)
        several = tile_count > len(range(0, len(work.groups), schedule.A))
        sums = config.l1_psum_depth // schedule.A if several else limit * limit
        most = max(self.group_counts)
        # Row groups in one COPY, and in L1 at a time: all that a set of output groups reads, or what one tile reads.
        choices = [(most, most, True), (schedule.B, schedule.B, True)]
        if not work.banded:
            chunk = -(-most // min(CHUNKS, -(-most // schedule.B)) // schedule.B) * schedule.B
            choices[0] = (chunk, most, False)
        seen = set()
        for chunk, size, streaming in choices:
            for copies in (2, 1):
                found = self.largest(config.l1_ifmap_depth // copies, size, sums, limit)
                if found is None:
                    continue
                width = ceil(F / ceil(F / found[1]))
                # With smaller strips the next layer can begin sooner; weights are fetched more often.
                for parts in PARTS:
                    # Blocks of about the same size.
                    height = ceil(E / min(E, parts * ceil(E / found[0])))
                    if (height, width, chunk) in seen:
                        continue
                    seen.add((height, width, chunk))
                    size_cycles = self.cycles(schedule, height, width, chunk, streaming, copies == 2)
                    yield Plan(
                        **vars(schedule), height=height, width=width, chunk=chunk, streaming=streaming,
                        cycles=size_cycles,
                    )  # fmt: skip

    def largest(self, vectors: int, groups: int, sums: int, limit: int) -> tuple[int, int] | None:
        """Most output rows, or if not even one fits, most columns of one row, whose input and sums fit."""
        key = vectors, groups, sums
        if key not in self.found:
            self.found[key] = self._largest(vectors, groups, sums, limit)
        return self.found[key]

    def _largest(self, vectors: int, groups: int, sums: int, limit: int) -> tuple[int, int] | None:
        geometry = self.geometry
        E, F = geometry.output

        def fits(height: int, width: int) -> bool:
            region = geometry.region(0, height) * geometry.region(1, width) * groups
            return region <= vectors and height * width <= sums and max(height, width) <= limit

        def most(high: int, test: Callable[[int], bool]) -> int:
            low = 0
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if test(middle) else (low, middle - 1)
            return low

        if height := most(E, lambda height: fits(height, F)):
            return height, F
        if width := most(F, lambda width: fits(1, width)):
            return 1, width
        return None

    def cycles(self, schedule: _Schedule, height: int, width: int, chunk: int, streaming: bool, ahead: bool) -> float:
        """Estimate for the layer; ``ahead``: the next strip is copied while one is computed."""
        geometry, work = self.geometry, self.work
        E, F = geometry.output
        across, down = ceil(F / width), ceil(E / height)
        number = across * down
        array, words, _ = self.strip(schedule, E * F / number)
        region = geometry.region(0, height) * geometry.region(1, width) * self.copy_words
        if work.banded:
            copy = region * sum(count * (work.digits if chunk < count else 1) for count in self.group_counts)
        else:
            times = ceil(len(work.groups) / schedule.A) if streaming else 1
            times *= work.digits if streaming and chunk < self.group_counts[0] else 1
            copy = region * self.group_counts[0] * times
        first = region * min(chunk, self.group_counts[0])
        each = max(array, words + self.parameters) + STRIP_CYCLES
        each = max(each, copy) if ahead else each + copy
        # The codebook comes once the last tile of the layer before has its weights, and while that computes: for this
        # layer, too, a long last tile hides the codebook of the next.
        last = E * F / number * schedule.A * schedule.B * schedule.passes * schedule.Dr * schedule.Ds
        return number * each + first + max(0.0, self.codebook - last)


@lru_cache(maxsize=1 << 12)
def plan_for(work: Work, geometry: Geometry) -> Plan | None:
    """The plan with the fewest accesses to L1 of those that take the fewest cycles, or up to 1 % more.

    None if L1 does not hold what one output position needs, or the register files not what one kernel position needs.
    Networks repeat layers, and explorations networks: plans are kept.
    """
    model = _Model(work, geometry)
    plans = [plan for schedule in _schedules(work) for plan in model.plan(schedule)]
    if not plans:
        return None
    limit = min(plan.cycles for plan in plans) * (1 + TOLERANCE)

    def cost(plan: Plan) -> tuple[float, float, float]:
        # Sums that leave the array or come back: 1/(B*D) of the operations; activations: 1/(A*Ds) (MVQ section 5.1).
        reuse = plan.Ds / min(geometry.stride[1], plan.Ds) if geometry.slides else 1
        return 1 / (plan.B * plan.passes * plan.Dr * plan.Ds), 1 / (plan.A * reuse), plan.cycles

    return min((plan for plan in plans if plan.cycles <= limit), key=cost)


def choose_plan(weights: Weights, geometry: Geometry) -> Plan:
    """The plan of :func:`plan_for`.

    Raises
    ------
    CompileError
        L1 does not hold what one output position needs, or the register files not what one kernel position needs.
    """
    plan = plan_for(Work.of(weights), geometry)
    if plan is None:
        needed = geometry.region(0, 1) * geometry.region(1, 1)
        raise CompileError(
            f"layer {weights.convolution.name!r}: one output position needs {needed} vectors of L1, the instance has "
            f"{weights.config.l1_ifmap_depth} of activations"
        )
    return plan

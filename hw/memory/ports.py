"""What a memory offers to a client: one read or one write a cycle."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ReadPort", "WritePort"]


class ReadPort(wiring.Signature):
    """Read port of a memory with a latency of one cycle, as its client sees it.

    A read is taken at a rising edge at which ``valid`` and ``ready`` are high; its ``data`` is there, with
    ``data_valid``, in exactly the next cycle. ``ready`` may depend on the ``valid`` of other clients.

    Parameters
    ----------
    depth
        Words.
    width
        Bits of a word.

    Members
    -------
    address, valid, ready
        The request.
    data, data_valid
        The word of the request that was taken in the cycle before.
    """

    def __init__(self, depth: int, width: int) -> None:
        self.depth, self.width = depth, width
        super().__init__(
            {
                "address": Out(range(depth)),
                "valid": Out(1),
                "ready": In(1),
                "data": In(width),
                "data_valid": In(1),
            }
        )


class WritePort(wiring.Signature):
    """Write port of a memory, as its client sees it: a word is taken when ``valid`` and ``ready`` are high.

    Parameters: :class:`ReadPort`.

    Members
    -------
    address, data, valid, ready
        The word, and its handshake.
    """

    def __init__(self, depth: int, width: int) -> None:
        self.depth, self.width = depth, width
        super().__init__({"address": Out(range(depth)), "data": Out(width), "valid": Out(1), "ready": In(1)})

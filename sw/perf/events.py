"""Processes that run in the order of time, and what they share: ports, channels of the DMA reader, queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any

__all__ = ["CommandQueue", "FetchChannel", "Kernel", "Port", "Process", "Signal"]


class Signal:
    """What a process can wait for."""

    def __init__(self) -> None:
        self.waiting: list[Process] = []


#: A process yields the cycle until which it sleeps, or what it waits for.
Process = Generator["float | Signal", None, None]


class Kernel:
    """Runs processes in the order of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heap: list[tuple[float, int, Process | Callable[[], None]]] = []
        self.number = 0

    def at(self, time: float, what: Process | Callable[[], None]) -> None:
        """Resume a process, or call a function, at a time."""
        self.number += 1
        heappush(self.heap, (max(time, self.now), self.number, what))

    def fire(self, signal: Signal) -> None:
        """Resume all that wait."""
        if signal.waiting:
            waiting, signal.waiting = signal.waiting, []
            for process in waiting:
                self.at(self.now, process)

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.heap:
            self.now, _, what = heappop(self.heap)
            if callable(what):
                what()
                continue
            try:
                wanted = next(what)
            except StopIteration:
                continue
            if isinstance(wanted, Signal):
                wanted.waiting.append(what)
            else:
                self.at(wanted, what)


class Port:
    """The read port of L2: what several units want beyond a word a cycle is shared evenly."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # Cycles of work left and words a cycle of each user.
        self.users: list[list[Any]] = []
        self.time = 0.0
        self.version = 0

    def speeds(self) -> list[float]:
        """The part of its own speed that each user reaches."""
        speeds = [1.0] * len(self.users)
        left, count = 1.0, len(self.users)
        for place in sorted(range(len(self.users)), key=lambda i: self.users[i][1]):
            rate = self.users[place][1]
            reached = min(rate, left / count)
            speeds[place] = reached / rate if rate else 1.0
            left, count = left - reached, count - 1
        return speeds

    def update(self, user: list[Any] | None = None) -> None:
        """Let time pass, take in a user, and wake those that are done."""
        passed = self.kernel.now - self.time
        for other, speed in zip(self.users, self.speeds(), strict=True):
            other[0] -= passed * speed
        self.time = self.kernel.now
        for other in [x for x in self.users if x[0] <= 1e-6]:
            self.users.remove(other)
            self.kernel.fire(other[2])
        if user:
            self.users.append(user)
        self.version += 1
        version = self.version
        if self.users:
            following = min(x[0] / speed for x, speed in zip(self.users, self.speeds(), strict=True))
            self.kernel.at(self.kernel.now + following, lambda: self.update() if version == self.version else None)

    def use(self, cycles: float, words: int) -> Process:
        """Read so many words in so many cycles, or more."""
        done = Signal()
        self.update([float(cycles), words / cycles, done])
        yield done


class FetchChannel:
    """A channel of the DMA reader: requests, space in its FIFO, and the bursts that have been asked for."""

    def __init__(self, space: int) -> None:
        self.requests: deque[list[int]] = deque()
        self.address = 0
        self.left = 0
        self.words = self.free = space
        # Cycle of the first bit that is there, and bits that are left.
        self.bursts: deque[list[float]] = deque()
        self.bits = 0
        self.begun, self.arrived = Signal(), Signal()


class CommandQueue:
    """Commands that were given to a unit."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.commands: deque[tuple[dict[str, int], dict[str, int], float]] = deque()
        self.given, self.taken = Signal(), Signal()

"""Where parts are computed: in processes of this machine, or by the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import as_completed
from typing import Any

from hw.command_line import worker_pool
from synth.explore.parts import ExploreError, Part, Settings, compute, sources

__all__ = ["TIMEOUT", "by_dask", "by_processes"]

#: How long a scheduler may take to answer.
TIMEOUT = "10s"


def by_processes(parts: Mapping[str, Part], settings: Settings, jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and results of parts, in the order in which they are done, by so many processes."""
    if not parts:
        return
    with worker_pool(min(jobs, len(parts))) as pool:
        futures = {pool.submit(compute, part, settings): key for key, part in parts.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()


def by_dask(parts: Mapping[str, Part], settings: Settings, address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and results of parts, in the order in which they are done, by the workers of a scheduler.

    Workers run this project's sources and see the library under the same path; each compares before it computes.

    Raises
    ------
    ExploreError
        There is no package ``distributed``, no scheduler at the address, or a worker has other sources.
    """
    try:
        from distributed import Client
        from distributed import as_completed as as_completed_there
    except ImportError:
        raise ExploreError("--dask needs the package distributed: pip install 'msvq[explore]'") from None
    if not parts:
        return
    expected = tuple((kind, sources(kind)) for kind in _kinds(parts.values()))
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, TimeoutError, ValueError) as error:
        raise ExploreError(f"no Dask scheduler at {address}: {error}") from None
    with client:
        # A part that ends its worker is not tried again and again: two more times.
        futures = {
            client.submit(compute, part, settings, expected, key=f"explore-{key}", retries=2): key
            for key, part in parts.items()
        }
        try:
            for future in as_completed_there(futures):
                yield futures[future], future.result()
        finally:
            client.cancel(list(futures), force=True)


def _kinds(parts: Iterable[Part]) -> list[str]:
    return list(dict.fromkeys(part.kind for part in parts))

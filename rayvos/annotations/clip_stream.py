"""Read many clips one after the other: bad ones are reported and left out, remote ones are fetched ahead.

Reading a clip of an object store is some requests of tens of milliseconds each; `REMOTE_READERS` threads hide that.
On a local disk a thread pool only adds switching, so there it is a plain loop. The order of clips is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from rayvos import storage
from rayvos.annotations.records import Clip
from rayvos.errors import RayvosError

__all__ = ["OnError", "stream_clips"]

OnError = Callable[[str, RayvosError], None]
"""Told of each clip that is left out: its name in the source, and why."""

REMOTE_READERS = 16

T = TypeVar("T")


def stream_clips(
    items: Iterable[T],
    read: Callable[[T], Clip],
    name: Callable[[T], str],
    *,
    source: str,
    on_error: OnError | None,
) -> Iterator[Clip]:
    """Yield `read(item)` for every item, in order.

    Args:
        items: what stands for one clip each; taken as they are needed.
        read: makes the clip.
        name: names the item for `on_error`.
        source: where the items lie; a remote one is read ahead by threads.
        on_error: called with name and error of each bad clip, which is left out; None raises the error instead.

    Raises:
        RayvosError: a clip is bad and there is no `on_error`.
    """
    pending: Iterator[tuple[T, Callable[[], Clip]]]
    if storage.local_path(source) is not None:
        pending = ((item, lambda item=item: read(item)) for item in items)  # type: ignore[misc]
    else:
        pending = _ahead(items, read)
    for item, result in pending:
        try:
            clip = result()
        except RayvosError as error:
            if on_error is None:
                raise
            on_error(name(item), error)
        else:
            yield clip


def _ahead(items: Iterable[T], read: Callable[[T], Clip]) -> Iterator[tuple[T, Callable[[], Clip]]]:
    source = iter(items)
    pool = ThreadPoolExecutor(REMOTE_READERS, thread_name_prefix="rayvos-import")
    try:
        running: deque[tuple[T, Future[Clip]]] = deque(
            (item, pool.submit(read, item)) for item in islice(source, 2 * REMOTE_READERS)
        )
        while running:
            item, future = running.popleft()
            yield item, future.result
            running.extend((item, pool.submit(read, item)) for item in islice(source, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

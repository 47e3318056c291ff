"""What a mistake may not change, and what it may not show."""

import asyncio
import threading

from asyncdbpool import ConnectionPool

SECRET = "hunter2-hunter2"


def gauges(pool: ConnectionPool) -> tuple[int, ...]:
    """What a mistake may not change."""
    s = pool.stats()
    assert s.size == s.idle + s.in_use + s.connecting
    return (
        *(s.min_size, s.max_size, s.size, s.idle, s.in_use, s.connecting, s.waiting),
        *(pool.free, s.discarded, s.closed, s.reclaimed),
    )


def keeps_the_secret(pool: ConnectionPool | None, error: BaseException, *more: object) -> bool:
    """Tell whether nothing that a user gets to see shows the password."""
    shown: list[object] = list(more)
    link: BaseException | None = error
    while link is not None:
        shown += [link, repr(link), *link.args]
        link = link.__cause__ or link.__context__
    if pool is not None:
        shown += [pool, repr(pool), pool.name, pool.stats(), *pool.dump()]
        shown += [thread.name for thread in threading.enumerate()]
        shown += [task.get_name() for task in asyncio.all_tasks()]
    return not any(SECRET in str(thing) for thing in shown)

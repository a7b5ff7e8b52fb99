"""One zygote for all tests of a process: it loads for seconds, and forks in milliseconds."""

from __future__ import annotations

import functools

from lensmount_server.workers.zygote import Zygote


@functools.cache
def shared_zygote() -> Zygote:
    return Zygote()


def close_shared_zygote() -> None:
    if shared_zygote.cache_info().currsize:
        shared_zygote().close()

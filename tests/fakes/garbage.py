"""What must be freed as soon as nobody needs it, and not when the garbage collector next looks at everything.

That may be minutes later, and bodies and logs are large.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FREED_S = 5.0


def living(kinds: tuple[type, ...]) -> int:
    """How many objects of these kinds there are."""
    return sum(type(one) in kinds for one in gc.get_objects())


@asynccontextmanager
async def no_garbage(*kinds: type) -> AsyncIterator[None]:
    """Whatever of these kinds is made within must be gone soon after, without the collector's help."""
    gc.collect()
    before = living(kinds)
    gc.disable()
    try:
        yield
        deadline = asyncio.get_running_loop().time() + FREED_S
        while living(kinds) > before and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
        assert living(kinds) <= before, f"{living(kinds) - before} of {kinds} wait for the garbage collector"
    finally:
        gc.enable()

from supervisord.core.life import Phase
from tests.engine.rig import llama, rig

async def test_x():
    async with rig(llama("a", 14), llama("b", 14)) as it:
        it.processes.on_start = lambda p: p.holds(14 * 2**30)
        await it.up("a")
        t = it.submit("b")
        await it.clock.advance(0.5)
        print(it.supervisor.placer.plan, it.phase("a"), it.phase("b"))
        await it.clock.advance(5)
        print(it.supervisor.placer.plan, it.phase("a"), it.phase("b"), t)
        for e in it.supervisor.journal.recent: print(e.at, e.message)

"""What is said of an instance that has left is said of nobody."""

from gateway.core.health import UNKNOWN
from tests.dataplane.rig import Rig, StubInstance, echo


async def test_r57_who_comes_at_the_address_of_one_that_left_starts_clean() -> None:
    stays, goes = await StubInstance(echo).start(), await StubInstance(echo).start()
    rig = await Rig().start()
    live = rig.plane.live
    rig.one(stays, goes)
    rig.plane.swap(rig.table_of(stays))
    # The control process lets it go when all workers have, and may still tell of it.
    live.hear({"b": {stays.address: UNKNOWN, goes.address: UNKNOWN}}, [])
    live.learn([("b", rig.plane.now(), goes.address, "refused")])
    assert goes.address not in live.states(rig.plane.now())["b"]
    rig.plane.swap(rig.table_of(stays, goes))
    assert live.backends["b"].instances[goes.address].health == UNKNOWN
    await rig.stop()
    await stays.close()
    await goes.close()

"""What the runtime does with a driver that really writes sandboxes down: gVisor."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from jubako import AsyncSandbox, Policy, Runtime
from jubako.boundary.contract import Feature
from jubako.errors import SandboxStateError, SnapshotIncompatibleError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.driver("runsc")]

WHO = """
import json, random, socket, sys
print(json.dumps([random.random(), socket.gethostname(), open("/etc/machine-id").read(), "decimal" in sys.modules]))
"""


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with Runtime() as made:
        features = (await made.planner.registry.load("runsc").probe()).features
        if Feature.SNAPSHOT not in features or Feature.FORK not in features:
            pytest.skip("runsc can't write sandboxes down on this machine")
        yield made


async def who(box: AsyncSandbox) -> list[object]:
    result: list[object] = json.loads((await box.run(WHO, check=True)).stdout)
    assert result.pop() is True
    return result


async def test_children_of_a_warm_sandbox(runtime: Runtime) -> None:
    random.seed(7)
    async with AsyncSandbox(boundary="gvisor", preload=["decimal"], runtime=runtime) as box:
        await box.files.write("kept.txt", "from before")
        seen = [await who(box)]
        made = await box.snapshot("warm")
        seen.append(await who(box))  # the same sandbox, with other random numbers
        assert seen[0][1:] == seen[1][1:]
        children = await box.fork(2)
        seen += [await who(child) for child in children]
        for child in children:
            assert await child.files.read_text("kept.txt") == "from before"
            await child.files.write("kept.txt", child.id)
        assert await box.files.read_text("kept.txt") == "from before"
        for child in children:
            await child.destroy()
    narrower = Policy.model_validate({"resources": {"memory": "512MiB"}, "time": {"exec": "20s"}})
    for policy in (None, narrower):
        async with AsyncSandbox.restore("warm", runtime=runtime, policy=policy, name="child") as child:
            seen.append(await who(child))
            assert await child.files.read_text("kept.txt") == "from before"
            assert child.policy.time.exec == (300 if policy is None else 20)
    sandboxes = [item for number, item in enumerate(seen) if number != 1]
    for part in range(3):
        assert len({item[part] for item in sandboxes}) == len(sandboxes), part
    assert len({item[0] for item in seen}) == len(seen)
    assert made.boundary == "gvisor"
    await runtime.remove_snapshot(made)


async def test_what_can_not_be_written_down_or_restored(runtime: Runtime) -> None:
    async with AsyncSandbox(boundary="gvisor", runtime=runtime) as box:
        async with await box.exec(["sleep", "60"]):
            with pytest.raises(SandboxStateError):
                await box.snapshot("busy")
        assert runtime.snapshots.list() == []
        await box.snapshot("base")
        assert (await box.run("print(1)")).stdout == "1\n"
    smaller = {"files": {"workspace_size": "1MiB"}}
    with pytest.raises(SnapshotIncompatibleError):
        await AsyncSandbox.restore("base", runtime=runtime, policy=smaller).start()
    assert runtime.sandboxes() == ()

"""Sandboxes behind gVisor that can be written down, and go on from there, here or as others.

``runsc checkpoint`` ends what it writes down, whatever its flags promise in old releases. So the sandbox
goes on from its own snapshot: in the same group, under the same name, at another socket. Its session
stays, and whoever talks to it notices a pause.
"""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from jubako.boundary.contract import InstanceExit, SnapshotRef
from jubako.drivers.runsc._bundle import runsc_arguments
from jubako.drivers.runsc._fit import requirements
from jubako.drivers.runsc._image import digest_of, prove_room, settle, staging, write_image
from jubako.drivers.runsc._instance import RunscInstance
from jubako.errors import InstanceLostError, InvalidRequestError, JubakoError, LaunchError, SnapshotError
from jubako.guest import SocketStream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jubako.boundary.contract import DriverContext, Instance
    from jubako.drivers.runsc._stream import MovableStream
    from jubako.guest import GuestSession
    from jubako.jail.bubblewrap import Launched

__all__ = ["LastingInstance"]

_ANSWER_SECONDS: Final = 30.0


class LastingInstance(RunscInstance):
    """A sandbox in gVisor on a machine where it can be written down and restored."""

    async def snapshot(self, directory: Path, *, memory: bool) -> SnapshotRef:
        """Write the sandbox down, ending it, and let it go on from what was written: it notices a pause.

        Raises:
            InvalidRequestError: Without memory; gVisor writes down whole sandboxes only.
            SandboxStateError: Programs run, or requests are open.
            SnapshotError: It can't be written; the sandbox goes on.
            InstanceLostError: The sandbox did not survive it.
        """
        if not memory:
            raise InvalidRequestError(
                "gVisor writes down whole sandboxes, memory included",
                hint="ask for memory=True, or copy files out",
                details={"memory": False},
            )
        session = self._live("snapshot")
        required = await to_thread.run_sync(self.requirements)
        await session.prepare()
        try:
            with anyio.CancelScope(shield=True):
                await self._write_down(session, directory)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_clear, directory)
            raise
        finally:
            session.proceed()
        digest = await to_thread.run_sync(digest_of, directory)
        return SnapshotRef(self._plan.driver, digest, parent=None, requires=required)

    def requirements(self) -> Mapping[str, str]:
        """Return what a snapshot of this sandbox requires where it is restored. Blocking."""
        return requirements(self._plan, self._machine, self._told, self._agent)

    async def _write_down(self, session: GuestSession, directory: Path) -> None:
        """Write the image, then go on from it in the same place. Pre: nothing moves inside."""
        lost: JubakoError | None = None
        said = ""
        # Whoever destroys the sandbox waits; its end in between is not its death.
        async with self._destroying:
            launched, stream = self._launched, self._stream
            if launched is None or stream is None or self._exit is not None:
                raise InstanceLostError("the sandbox died", details={"call": "snapshot"})
            used = launched.group.made.usage().memory if launched.group.made is not None else None
            await to_thread.run_sync(prove_room, directory, used or self._plan.spec.policy.resources.memory)
            self._launched = None
            stream.hold()
            try:
                await self._write_image(launched, directory)
            except SnapshotError as error:
                self._launched = launched
                stream.release()
                if launched.monitor.poll() is None:
                    raise
                lost = error
            else:
                try:
                    await self._go_on(launched, stream, session, directory)
                except JubakoError as error:
                    stream.release()
                    lost, said = error, await self._dying_words()
                    if self._launched is None:
                        await launched.group.remove()
        if lost is not None:
            msg = f"the sandbox did not survive a snapshot: {lost.message} {said}".rstrip()
            await self._end(InstanceExit("instance-lost", msg))
            raise InstanceLostError(msg) from lost

    async def _write_image(self, launched: Launched, directory: Path) -> None:
        place = staging(directory, foreign=bool(self._machine.drop))
        command = runsc_arguments(self._machine.flags, self._machine.platform)
        await write_image(launched, self._machine.nsenter, command, self.full_name, place)

    async def _go_on(self, old: Launched, stream: MovableStream, session: GuestSession, directory: Path) -> None:
        """Restore the sandbox where it was. Raises JubakoError; nothing runs then."""
        await old.retire()
        await stream.ended()
        await self._freed()
        await to_thread.run_sync(settle, directory)
        self._launched = launched = await self._enter(directory, old.group)
        await self._watched(launched)
        stream.move(SocketStream(launched.stream))
        session.proceed()
        with anyio.move_on_after(_ANSWER_SECONDS) as scope:
            await session.usage()
        if scope.cancelled_caught:
            raise LaunchError("the agent did not answer")
        self._verify(launched, session)
        self._ctx.tasks.start_soon(self._watch, launched)

    async def fork(self, contexts: Sequence[DriverContext]) -> Sequence[Instance]:
        """Return one started sandbox a context that goes on from here, all or none.

        Raises:
            SandboxStateError: Programs run, or requests are open.
            SnapshotError: There is no room for what they have in common; this sandbox goes on.
            LaunchError: One did not come up; none is left.
        """
        place = self._ctx.state_dir / f"fork-{secrets.token_hex(4)}"
        place.mkdir(mode=0o700)
        children: list[LastingInstance] = []
        try:
            await self.snapshot(place, memory=True)
            children += [
                LastingInstance(self._plan, ctx, self._machine, agent=self._agent, config=self._told, image=place)
                for ctx in contexts
            ]
            await _start_all(children)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for child in children:
                    await child.destroy()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(shutil.rmtree, place)
        return children


async def _start_all(children: Sequence[LastingInstance]) -> None:
    """Start them side by side; raise the first error once all have come up or failed."""
    errors: list[JubakoError] = []

    async def start(child: LastingInstance) -> None:
        try:
            await child.start()
        except JubakoError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for child in children:
            tasks.start_soon(start, child)
    if errors:
        raise errors[0]


def _clear(directory: Path) -> None:
    """Remove what a snapshot that failed has left."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

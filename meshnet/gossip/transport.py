"""The engine on real sockets: UDP and TCP on one address and port, in the network namespace of the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from meshnet.errors import MeshnetError
from meshnet.gossip.engine import Engine, StreamStep
from meshnet.gossip.meta import MemberMeta
from meshnet.gossip.outbox import StreamRequest
from meshnet.gossip.records import Position
from meshnet.gossip.settings import Settings
from meshnet.gossip.types import (
    AcknowledgedChanged,
    Address,
    EpochChanged,
    Event,
    JoinResult,
    Member,
    MemberChanged,
    Record,
    RecordsChanged,
    WireError,
)

RECEIVE_BUFFER = 2 << 20
DATAGRAMS_PER_WAKE = 64
ASK_AFTER, ASK_EVERY = 0.2, 0.4  # s after which those are asked who have not said that a record is in force
"""Most datagrams read before other work of the loop gets its turn."""
INBOUND_LIMIT = 128
OUTBOUND_LIMIT = 256
SLOW_INFLATE = 8192
"""Compressed bytes beyond which decompression is done in a thread."""


class Gossip:
    """One member on real sockets. Everything is to be called in the event loop that `start` ran in."""

    def __init__(self, settings: Settings, rng: random.Random | None = None) -> None:
        self.settings = settings
        self._engine = Engine(settings, rng or random.Random(), os.urandom, time.monotonic())
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake_pending = False
        self._notify_pending = False
        self._callbacks: list[Callable[[], None]] = []
        self._epoch_callbacks: list[Callable[[int], None]] = []
        self._wake_callbacks: list[Callable[[], None]] = []
        self._joins: dict[Address, list[asyncio.Future[str]]] = {}
        self._waiters: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbound = 0
        self._outbound = 0
        self._lost: Counter[str] = Counter()
        self._buffer = bytearray(65536)

    # life

    async def start(self) -> None:
        """Bind UDP and TCP. Raises MeshnetError when the address is not there or taken."""
        address, port = self.settings.address, self.settings.port
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            datagrams.bind((address, port))
            self._server = await asyncio.start_server(self._accepted, address, port, family=family)
        except OSError as error:
            datagrams.close()
            raise MeshnetError(
                f"gossip cannot use {address} port {port}: {error.strerror or error}; "
                "is another agent running there, or the address missing?"
            ) from error
        self._socket = datagrams
        self._engine.start(time.monotonic())
        asyncio.get_running_loop().add_reader(datagrams, self._readable)
        self._pump()

    async def join(self, addresses: Iterable[Address | str], timeout: float = 5.0) -> int:
        """Exchange state with these members ("10.0.0.1" or ("10.0.0.1", 7946)); returns how many answered.

        Raises MeshnetError when none did within `timeout` seconds; they are tried again in the background all the
        same. This node's own address is passed over.
        """
        loop = asyncio.get_running_loop()
        own = (self.settings.address, self.settings.port)
        wanted = [(each, self.settings.port) if isinstance(each, str) else each for each in addresses]
        wanted = [each for each in wanted if each != own]
        results: list[asyncio.Future[str]] = []
        for address in wanted:
            results.append(loop.create_future())
            self._joins.setdefault(address, []).append(results[-1])
        self._engine.join(wanted, time.monotonic())
        self._pump()
        if results:
            await asyncio.wait(results, timeout=timeout)
        answers = [each.result() if each.done() else "no answer in time" for each in results]
        for result in results:
            result.cancel()
        joined = sum(1 for each in answers if not each)
        if wanted and not joined:
            reasons = "; ".join(f"{a[0]}:{a[1]}: {why}" for a, why in zip(wanted, answers, strict=True))
            raise MeshnetError(f"no member could be joined ({reasons}): is an agent running there, with the same key?")
        return joined

    async def leave(self, timeout: float = 1.0) -> None:
        """Say farewell, so that others drop this node's records at once, and wait until it is told (bounded)."""
        self._engine.leave(time.monotonic())
        self._pump()
        await self._until(lambda: self._engine.farewell_sent, timeout)

    async def stop(self) -> None:
        """Close everything. Without `leave` before it this looks like a crash to others."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    # records and members

    def publish(self, network: str, kind: str, key: str, value: Mapping[str, object]) -> int:
        """Put a record in this node's log; returns the number to give to `wait_acknowledged`. Raises MeshnetError.

        What is published before `join` is part of the first exchange, and replaces the log of an earlier epoch.
        """
        seq = self._engine.publish(network, kind, key, value, time.monotonic())
        self._wake()
        return seq

    def withdraw(self, network: str, kind: str, key: str) -> int:
        """Take a record back; returns the number to give to `wait_acknowledged`."""
        seq = self._engine.withdraw(network, kind, key, time.monotonic())
        self._wake()
        return seq

    def update_meta(self, meta: MemberMeta) -> None:
        """Change what this node says of itself. Raises MeshnetError when it exceeds 512 bytes."""
        self._engine.update_meta(meta, time.monotonic())
        self._wake()

    def set_keys(self, keys: tuple[bytes, ...]) -> None:
        """Use these keys from now on: the first seals, all open. Raises ValueError for a wrong length."""
        self._engine.set_keys(keys)

    def records(self) -> list[Record]:
        """Every visible record, of this node and of live members."""
        return self._engine.records()

    def members(self) -> list[Member]:
        """Every known member, this one included."""
        return self._engine.members()

    @property
    def epoch(self) -> int:
        """This node's epoch; see `on_epoch`."""
        return self._engine.epoch

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this in the loop, once, after members or records changed, however much did."""
        self._callbacks.append(callback)

    def on_wake(self, callback: Callable[[], None]) -> None:
        """Call this in the loop whenever a timer woke it: a good time for what is nearly due elsewhere."""
        self._wake_callbacks.append(callback)

    def on_epoch(self, callback: Callable[[int], None]) -> None:
        """Call this when the epoch had to move, since peers held a newer log of this name: persist it."""
        self._epoch_callbacks.append(callback)

    def acknowledged(self, seq: int) -> tuple[frozenset[str], frozenset[str]]:
        """Live members that have seen this node's log up to `seq`, and those not known to have."""
        return self._engine.acknowledged(seq)

    async def wait_acknowledged(self, seq: int, timeout: float) -> bool:
        """Wait until every live member has seen this node's log up to `seq`; False when `timeout` seconds passed."""
        return await self._until(lambda: not self._engine.acknowledged(seq)[1], timeout)

    async def wait_in_force(self, seq: int, timeout: float) -> bool:
        """Wait until what this node's log says up to `seq` is in force here and at every live member; False when
        `timeout` seconds passed. Who is silent for long is asked: words are lost."""
        loop = asyncio.get_running_loop()
        deadline, patience = loop.time() + timeout, ASK_AFTER
        while True:
            left = deadline - loop.time()
            if await self._until(lambda: self._engine.in_force(seq), min(patience, left)):
                return True
            if left <= patience:
                return False
            self._engine.ask_in_force(seq, time.monotonic())
            self._wake()
            patience = min(patience * 2, ASK_EVERY)

    def positions(self) -> dict[str, Position]:
        """How far each visible log is now, for `settle` once what `records` shows now is in force."""
        return self._engine.positions()

    def settle(self, positions: Mapping[str, Position]) -> None:
        """Everything up to these positions is in force at this node: whose records they are is told."""
        self._engine.settle(positions, time.monotonic())
        self._wake()

    async def wait_caught_up(self, timeout: float) -> bool:
        """Wait until the records that a joined member told of are here; False when `timeout` seconds passed."""
        return await self._until(self._engine.caught_up, timeout)

    def statistics(self) -> Counter[str]:
        """Counters of what was sent, received and dropped, and a few sizes. What never happened is 0."""
        return self._engine.statistics() + self._lost

    # between engine and sockets

    def _wake(self) -> None:
        """Run the engine soon; several wishes of one turn of the loop become one datagram."""
        if not self._wake_pending and self._socket is not None:
            self._wake_pending = True
            asyncio.get_running_loop().call_soon(self._on_wake)

    def _on_wake(self) -> None:
        self._wake_pending = False
        if self._socket is not None:
            self._run_timers()
            self._pump()

    def _on_timer(self) -> None:
        self._timer = None
        self._run_timers()
        self._pump()
        for callback in self._wake_callbacks:
            callback()

    def _run_timers(self) -> None:
        now, due = time.monotonic(), self._engine.next_timer()
        if due is not None and due <= now:
            self._engine.handle_timer(now)

    def _pump(self) -> None:
        """Carry out what the engine wants."""
        if self._socket is None:
            return
        for data, address in self._engine.datagrams_to_send():
            try:
                self._socket.sendto(data, address)
            except OSError:  # a full buffer or no route: gossip repeats itself
                self._lost["send_errors"] += 1
        for request in self._engine.streams_to_open():
            self._open(request)
        while (event := self._engine.next_event()) is not None:
            self._take(event)
        self._arm()
        for waiter in self._waiters:
            waiter.set()

    def _arm(self) -> None:
        """One handle, moved with the deadline: to wake for nothing costs more than that."""
        due = self._engine.next_timer()
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due is None:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(due, loop.time()), self._on_timer)

    def _take(self, event: Event) -> None:
        match event:
            case MemberChanged() | RecordsChanged():
                if not self._notify_pending:
                    self._notify_pending = True
                    asyncio.get_running_loop().call_soon(self._notify)
            case EpochChanged(epoch):
                for changed in self._epoch_callbacks:
                    changed(epoch)
            case JoinResult(address, error):
                for result in self._joins.pop(address, []):
                    if not result.done():
                        result.set_result(error)
            case AcknowledgedChanged():
                pass

    def _notify(self) -> None:
        self._notify_pending = False
        for callback in self._callbacks:
            callback()

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    waiter.clear()
                    await waiter.wait()
        except TimeoutError:
            return condition()
        finally:
            self._waiters.discard(waiter)
        return True

    def _readable(self) -> None:
        for _ in range(DATAGRAMS_PER_WAKE):
            if self._socket is None:
                return
            try:
                count, source = self._socket.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._lost["receive_errors"] += 1
                break
            self._engine.receive_datagram(bytes(self._buffer[:count]), source[:2], time.monotonic())
        self._pump()

    # streams

    def _open(self, request: StreamRequest) -> None:
        if self._outbound >= OUTBOUND_LIMIT:
            self._lost["streams_refused"] += 1
            self._engine.stream_closed(request.id, "too many streams at once", time.monotonic())
            return
        self._outbound += 1
        task = asyncio.get_running_loop().create_task(self._outgoing(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _outgoing(self, request: StreamRequest) -> None:
        error = ""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(request.timeout):
                source = (self.settings.address, 0)
                reader, writer = await asyncio.open_connection(*request.address, local_addr=source)
                writer.write(request.data)
                await writer.drain()
                if request.reply:
                    await self._converse(request.id, reader, writer)
        except TimeoutError:
            error = "no answer in time"
        except OSError as caught:
            error = caught.strerror or str(caught)
        finally:
            self._outbound -= 1
            if writer is not None:
                writer.close()
            self._engine.stream_closed(request.id, error, time.monotonic())
            self._pump()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._inbound >= INBOUND_LIMIT or self._socket is None:
            self._lost["streams_refused"] += 1
            writer.close()
            return
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._inbound += 1
        peer = writer.get_extra_info("peername")
        number = self._engine.accept_stream((str(peer[0]), int(peer[1])) if peer else ("", 0))
        error = ""
        try:
            async with asyncio.timeout(self.settings.stream_timeout):
                await self._converse(number, reader, writer)
        except (TimeoutError, OSError) as caught:
            error = str(caught) or "it took too long"
        except asyncio.CancelledError:
            error = "this node stops"
        finally:
            self._inbound -= 1
            self._engine.stream_closed(number, error, time.monotonic())
            self._pump()
            writer.close()

    async def _converse(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Feed the engine until it has the message, and write what it answers."""
        while data := await reader.read(65536):
            step = self._engine.receive_stream(number, data, time.monotonic())
            if step.inflate is not None:
                step = self._resume(number, await self._inflate(step.inflate, len(data)))
            self._pump()
            if step.reply:
                writer.write(step.reply)
                await writer.drain()
            if step.done:
                return

    def _resume(self, number: int, plaintext: bytes | None) -> StreamStep:
        return self._engine.resume_stream(number, plaintext, time.monotonic())

    @staticmethod
    async def _inflate(work: Callable[[], bytes], size: int) -> bytes | None:
        with contextlib.suppress(WireError):
            return work() if size < SLOW_INFLATE else await asyncio.to_thread(work)
        return None

"""One request in a guest: its input, its output, its end. Made by `GuestChannel.open`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from hostagent.drivers.guest.arrivals import Arrivals, Errors, Output
from hostagent.drivers.guest.errors import GuestGoneError, GuestRefusedError
from hostagent.drivers.guest.frames import (
    FIRST_CREDIT,
    MOST_CREDIT,
    MOST_PAYLOAD,
    Frame,
    FrameError,
    FrameType,
    credit_frame,
    credit_of,
)

_GIVE_BACK: Final = FIRST_CREDIT // 4  # credit is given back in portions of this size
_MOST_SENTENCE: Final = 300


class GuestStream:
    """Used as an async context manager: what is left when it is left is cancelled."""

    def __init__(
        self,
        number: int,
        guest: str,
        send: Callable[[Frame], Awaitable[None]],
        send_later: Callable[[Frame], None],
    ) -> None:
        self.number = number
        self._guest = guest
        self._send, self._send_later = send, send_later
        self._arrived = Arrivals()
        self._news = asyncio.Event()
        self._may_send = FIRST_CREDIT
        self._more_credit = asyncio.Event()
        self._guest_may_send = FIRST_CREDIT
        self._owed = 0  # credit that the guest has used, that was taken, and that it has not got back
        self._answer: Mapping[str, Any] | None = None
        self._failure: GuestGoneError | None = None
        self._has_ended_output = False
        self.is_open = False  # the guest is told of it, even where whoever asked has not waited for that
        self.is_abandoned = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    # ---- for whoever asked

    async def read(self) -> Output | Errors | None:
        """The next piece of output; None at the end. Raises GuestGoneError."""
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if self._answer is not None:
                return None
            self._news.clear()
            await self._news.wait()
        piece = self._arrived.take()
        self._owed += len(piece.data)
        if self._owed >= _GIVE_BACK and self._answer is None and self._failure is None:
            owed, self._owed = self._owed, 0
            self._guest_may_send += owed
            await self._send(credit_frame(self.number, owed))
        return piece

    async def write(self, data: bytes) -> None:
        """Input; waits until the guest takes it. What comes after the end of the request is dropped."""
        rest = memoryview(data)
        while rest and self._answer is None:
            if not self._may_send:
                await self._credit()
                continue
            piece = rest[: min(MOST_PAYLOAD, self._may_send)]
            rest = rest[len(piece) :]
            self._may_send -= len(piece)
            await self._say(FrameType.DATA, bytes(piece))

    async def _credit(self) -> None:
        """Wait for more, or for the end."""
        if self._failure is not None:
            raise self._failure
        self._more_credit.clear()
        await self._more_credit.wait()

    async def end_input(self) -> None:
        """No more input."""
        await self._say(FrameType.EOF)

    async def control(self, payload: bytes) -> None:
        """A CONTROL frame: resize, signal."""
        await self._say(FrameType.CONTROL, payload)

    async def answer(self) -> Mapping[str, Any]:
        """What DONE says; output that has not been read is dropped. Raises GuestGoneError, GuestRefusedError."""
        while self._answer is None:
            await self.read()
        if sentence := self._answer.get("error"):
            raise GuestRefusedError(f"{self._guest}: {str(sentence)[:_MOST_SENTENCE]}")
        return self._answer

    @property
    def has_ended(self) -> bool:
        """Whether the guest has answered, or never will."""
        return self._answer is not None or self._failure is not None

    def cancel(self) -> None:
        """Have the guest end what runs for it, unless it has ended. Whoever has no time left waits for nothing."""
        if not self.has_ended and not self.is_abandoned:
            self.is_abandoned = True
            self._arrived.clear()
            self._send_later(Frame(FrameType.CANCEL, self.number))

    # ---- for the channel

    def take(self, frame: Frame) -> None:
        """A frame of the guest. Raises FrameError where it breaks the rules."""
        match frame.type:
            case FrameType.DATA | FrameType.ERRDATA:
                self._guest_may_send -= len(frame.payload)
                if self._guest_may_send < 0:
                    raise FrameError("more than it was allowed to send")
                if not self.is_abandoned:
                    self._arrived.put(Output if frame.type is FrameType.DATA else Errors, frame.payload)
                    self._news.set()
            case FrameType.CREDIT:
                self._may_send += credit_of(frame)
                if self._may_send > MOST_CREDIT:
                    raise FrameError("more credit than anybody uses")
                self._more_credit.set()
            case FrameType.EOF if not self._has_ended_output:
                self._has_ended_output = True
            case _:
                raise FrameError(f"{frame.type.name} within a stream")

    def done(self, answer: Mapping[str, Any]) -> None:
        """The guest has said its last word."""
        self._answer = answer
        self._news.set()
        self._more_credit.set()

    def fail(self, failure: GuestGoneError) -> None:
        """The channel has ended before it."""
        if self._answer is None:
            self._failure = failure
        self._news.set()
        self._more_credit.set()

    async def _say(self, kind: FrameType, payload: bytes = b"") -> None:
        if self._failure is not None:
            raise self._failure
        if self._answer is None:
            await self._send(Frame(kind, self.number, payload))

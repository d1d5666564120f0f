"""What QEMU's guest agent answers, checked: a guest may say anything. Pure.

Everything here raises GuestGoneError (`guest-agent-nonsense`) for what is no answer to the question.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from hostagent.drivers.guest.agent import KILLED, CommandResult
from hostagent.drivers.guest.errors import GuestGoneError, GuestRefusedError
from vdc.model.base import Record
from vdc.model.guest import GuestInterface

T = TypeVar("T")
_MOST_INTERFACES: Final = 64
_MOST_VALUES: Final = (
    20_000  # of an answer, which may be long: to make objects of it holds up the whole agent
)
_MOST_WORDS: Final = 200  # characters of a complaint that are repeated
_PIECE: Final = 4 << 18  # characters of base64, whole groups of four
_LOOPBACK: Final = "lo"


class _Address(Record):
    address: str = Field(alias="ip-address", max_length=64)


class _Interface(Record):
    name: str = Field(max_length=64)
    mac: str = Field(default="", alias="hardware-address", max_length=64)
    addresses: tuple[_Address, ...] = Field(default=(), alias="ip-addresses", max_length=64)


class _Started(Record):
    pid: int


class _Status(Record):
    exited: bool
    exit_code: int | None = Field(default=None, alias="exitcode", ge=-(2**31), lt=2**32)
    signal: int | None = Field(default=None, ge=0, lt=128)
    out: str = Field(default="", alias="out-data")
    err: str = Field(default="", alias="err-data")
    is_out_cut: bool = Field(default=False, alias="out-truncated")
    is_err_cut: bool = Field(default=False, alias="err-truncated")


_INTERFACES: Final = TypeAdapter(list[_Interface])
_STARTED, _STATUS, _COUNT = TypeAdapter(_Started), TypeAdapter(_Status), TypeAdapter(int)


def returned(command: str, line: bytes) -> Any:
    """The value in an answer. Raises GuestRefusedError with the agent's own words where it is a no."""
    if sum(map(line.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise nonsense("too many values")
    try:
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise nonsense("what is not JSON") from error
    if "return" in answer:
        return answer["return"]
    complaint = answer.get("error")
    words = complaint.get("desc") if isinstance(complaint, dict) else None
    shown = _printable(str(words)[:_MOST_WORDS]) if words else "no reason"
    raise GuestRefusedError(f"the guest's agent refused {command.removeprefix('guest-')}: {shown}")


def anything(value: Any) -> None:
    """To what is answered with nothing of interest."""


def interfaces(value: Any) -> tuple[GuestInterface, ...]:
    """To `guest-network-get-interfaces`: all but the loopback."""
    said = _checked(_INTERFACES, value)[:_MOST_INTERFACES]
    try:
        return tuple(_interface(one) for one in said if one.name != _LOOPBACK)
    except ValidationError as error:
        raise nonsense("an address that is none") from error


def started(value: Any) -> int:
    """To `guest-exec`: the process."""
    return _checked(_STARTED, value).pid


def ended(value: Any) -> CommandResult | None:
    """To `guest-exec-status`: None while it runs."""
    status = _checked(_STATUS, value)
    if not status.exited:
        return None
    try:
        out, err = _decoded(status.out), _decoded(status.err)
    except (binascii.Error, ValueError) as error:
        raise nonsense("output that is not base64") from error
    code = status.exit_code if status.signal is None else KILLED + status.signal
    if code is None:
        raise nonsense("an end without an exit code")
    is_cut = status.is_out_cut or status.is_err_cut
    return CommandResult(exit_code=code, stdout=out, stderr=err, is_cut=is_cut)


def _decoded(text: str) -> bytes:
    """By pieces: no other thread runs while one is decoded."""
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)


def count(value: Any) -> int:
    """To `guest-fsfreeze-freeze` and `guest-fsfreeze-thaw`."""
    return _checked(_COUNT, value)


def nonsense(what: str) -> GuestGoneError:
    """To be raised."""
    return GuestGoneError(f"the guest's agent answers with {what}", code="guest-agent-nonsense")


def _checked(adapter: TypeAdapter[T], value: Any) -> T:
    try:
        return adapter.validate_python(value)
    except (ValidationError, RecursionError) as error:
        raise nonsense("something else than was asked for") from error


def _interface(said: _Interface) -> GuestInterface:
    addresses = tuple(one.address.partition("%")[0] for one in said.addresses)
    name, mac = _printable(said.name), said.mac.lower()
    return GuestInterface.model_validate({"name": name, "mac": mac, "addresses": addresses})


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())

"""Reads protobuf's wire format, bounded and strict: only the fields that a message's table allows.

Protobuf itself merges repeated single fields, keeps unknown ones and truncates long numbers; a reader that differs
from it in such corners can be shown one model while the runtime loads another. Here all these are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

__all__ = [
    "Message",
    "Refused",
    "Value",
    "WireReader",
    "as_bytes",
    "as_int",
    "as_text",
    "count_numbers",
    "message",
    "numbers",
    "refuse",
]

Value: TypeAlias = int | memoryview  # of a field: a varint, or the bytes of all others


class Refused(Exception):
    """What is wrong, without the file's name."""


def refuse(what: str) -> NoReturn:
    raise Refused(what)


VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types; the group types 3 and 4 are refused
CONTINUED = bytes(range(128, 256))  # the bytes that do not end a varint


@dataclass(frozen=True)
class Message:
    """Allowed fields of a protobuf message: number -> (wire type, repeated)."""

    name: str
    fields: dict[int, tuple[int, bool]]


def message(name: str, fields: str) -> Message:
    """From words such as "8b*": field 8, bytes (v varint, d 8 bytes, f 4 bytes), * repeated."""
    wires = {"v": VARINT, "d": FIXED64, "b": BYTES, "f": FIXED32}
    words = [(word.rstrip("*"), word.endswith("*")) for word in fields.split()]
    return Message(name, {int(word[:-1]): (wires[word[-1]], repeated) for word, repeated in words})


class WireReader:
    """Reads the fields of messages; `max_fields` bounds the work over all of them."""

    def __init__(self, max_fields: int) -> None:
        self._max_fields = self._left = max_fields

    def fields(self, data: memoryview, message: Message) -> Iterator[tuple[int, Value]]:
        """(field number, value) of each field of a message; a value is an int (varint) or the bytes of all others."""
        seen = set()
        position = 0
        while position < len(data):
            self._left -= 1
            if self._left < 0:
                refuse(f"it has more than {self._max_fields} fields")
            tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            expected, repeated = message.fields.get(number, (None, False))
            if wire != expected and not (wire == BYTES and repeated):  # repeated numbers may be packed into bytes
                refuse(f"field {number} (wire type {wire}) of {message.name} is not allowed")
            if number in seen and not repeated:  # protobuf would merge both into something that was not checked
                refuse(f"field {number} of {message.name} is there twice")
            seen.add(number)
            if wire == VARINT:
                value, position = _varint(data, position)
                yield number, value
                continue
            size = {FIXED32: 4, FIXED64: 8}.get(wire, 0)
            if wire == BYTES:
                size, position = _varint(data, position)
            if size > len(data) - position:
                refuse("it is cut off")
            yield number, data[position : position + size]
            position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            refuse("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position
    refuse("a number has more than 64 bits")


def numbers(value: Value, limit: int) -> list[int]:
    """A repeated number, packed or not; reading stops after more than `limit` of them."""
    if isinstance(value, int):
        return [value]
    found: list[int] = []
    position = 0
    while position < len(value) and len(found) <= limit:
        number, position = _varint(value, position)
        found.append(number)
    return found


def count_numbers(value: Value, wire: int) -> int:
    """How many numbers a field of typed data holds."""
    if isinstance(value, int):
        return 1
    if wire == VARINT:
        return len(bytes(value).translate(None, CONTINUED))
    return len(value) // (4 if wire == FIXED32 else 8)


def as_int(value: Value) -> int:
    assert isinstance(value, int)  # the message's table says so
    return value


def as_bytes(value: Value) -> memoryview:
    assert isinstance(value, memoryview)
    return value


def as_text(value: Value) -> str:
    try:
        return str(as_bytes(value), "utf-8")
    except UnicodeDecodeError:
        refuse("a name is not UTF-8")

"""Reads flatbuffers, bounded: offsets, vtables, vectors and texts lie inside the file, and no table has other fields
than those that the caller knows.

A table's fields are a text with one letter each, by position: b one byte, i int32, u uint32, p int32 above 0, d the
same with default 1, f float32, s text, t table, B bytes, I numbers of 32 bits, F floats, L numbers of 64 bits,
T tables; - must be absent.
"""

from __future__ import annotations

import struct

from sam_edge.protobuf import refuse

__all__ = ["FlatbufferFile", "Table"]

MAX_TEXT = 1000
MAX_STEP = 1 << 12  # of p and d: strides, dilations and filters


class FlatbufferFile:
    """The bytes of a flatbuffer; every read is inside of them, and `max_items` bounds the work over all: tables, fields
    and numbers."""

    def __init__(self, data: bytes, max_items: int) -> None:
        self.data = data
        self._max_items = self._left = max_items

    def root(self, identifier: bytes, fields: str, name: str) -> Table:
        if self.data[4:8] != identifier:
            refuse(f"it does not begin as a {identifier.decode()} file")
        return Table(self, self.number("I", 0), fields, name)

    def spend(self, items: int) -> None:
        self._left -= items
        if self._left < 0:
            refuse(f"it has more than {self._max_items} parts")

    def number(self, kind: str, at: int) -> int:
        """One number of struct's `kind`, at a place that is its size's multiple."""
        size = struct.calcsize(kind)
        if at % size or not 0 <= at <= len(self.data) - size:
            refuse("a place lies outside of it or between its words")
        return int(struct.unpack_from("<" + kind, self.data, at)[0])

    def target(self, at: int) -> int:
        """Where the offset at `at` leads."""
        offset = self.number("I", at)
        if offset == 0:
            refuse("an offset leads nowhere")
        return at + offset

    def vector(self, at: int, size: int) -> tuple[int, int]:
        """(elements, start) of the vector that the offset at `at` leads to; size: bytes an element."""
        start = self.target(at)
        count = self.number("I", start)
        if count * size > len(self.data) - start - 4 or (start + 4) % size:
            refuse("a vector is cut off or lies between words")
        return count, start + 4


class Table:
    """One table, all of its fields checked against what `fields` says; its tables and vectors when they are read."""

    def __init__(self, file: FlatbufferFile, at: int, fields: str, name: str) -> None:
        kinds = fields.split()
        vtable = at - file.number("i", at)
        size, table_size = file.number("H", vtable), file.number("H", vtable + 2)
        if size < 4 or size % 2 or vtable + size > len(file.data) or table_size < 4 or at + table_size > len(file.data):
            refuse(f"a table {name} is cut off")
        file.spend(1 + size // 2)
        self.file, self.name, self._kinds, self._places = file, name, kinds, [0] * len(kinds)
        for slot in range((size - 4) // 2):
            offset = file.number("H", vtable + 4 + 2 * slot)
            if not offset:
                continue
            kind = kinds[slot] if slot < len(kinds) else "-"
            if kind == "-":
                refuse(f"field {slot} of {name} is not allowed")
            if offset < 4 or offset + (1 if kind == "b" else 4) > table_size:
                refuse(f"field {slot} of {name} lies outside of its table")
            self._places[slot] = at + offset
            if kind in "pd":
                if not 0 < file.number("i", at + offset) <= MAX_STEP:
                    refuse(f"field {slot} of {name} is {file.number('i', at + offset)}, expected 1 to {MAX_STEP}")
            elif kind in "biuf":
                file.number({"b": "b", "i": "i", "u": "I", "f": "I"}[kind], at + offset)
            elif kind in "sBIFLT":
                file.vector(at + offset, {"s": 1, "B": 1, "L": 8}.get(kind, 4))
        for slot, kind in enumerate(kinds):
            if kind == "p" and not self._places[slot]:  # it would be 0, and some kernels divide by it
                refuse(f"field {slot} of {name} is missing")

    def has(self, slot: int) -> bool:
        return self._places[slot] > 0

    def number(self, slot: int) -> int:
        """A whole number; 0, the default of all that are read, where it is absent."""
        kind = {"b": "b", "i": "i", "u": "I"}[self._kinds[slot]]
        return self.file.number(kind, self._places[slot]) if self.has(slot) else 0

    def text(self, slot: int) -> str:
        if not self.has(slot):
            return ""
        count, start = self.file.vector(self._places[slot], 1)
        data = self.file.data[start : start + count + 1]
        if count > MAX_TEXT or len(data) != count + 1 or data[-1]:
            refuse(f"a text of {self.name} is too long or does not end")
        try:
            return data[:-1].decode("utf-8")
        except UnicodeDecodeError:
            refuse(f"a text of {self.name} is not UTF-8")

    def numbers(self, slot: int) -> tuple[int, ...]:
        """The whole numbers of a vector."""
        return tuple(int(x) for x in self._values(slot, {"I": "i", "L": "q"}[self._kinds[slot]]))

    def floats(self, slot: int) -> tuple[float, ...]:
        return self._values(slot, "f")

    def _values(self, slot: int, kind: str) -> tuple[float, ...]:
        if not self.has(slot):
            return ()
        count, start = self.file.vector(self._places[slot], struct.calcsize(kind))
        self.file.spend(count)
        return struct.unpack_from(f"<{count}{kind}", self.file.data, start)

    def size(self, slot: int) -> tuple[int, int]:
        """(length, start) of bytes."""
        return self.file.vector(self._places[slot], 1) if self.has(slot) else (0, 0)

    def table(self, slot: int, fields: str, name: str) -> Table | None:
        return Table(self.file, self.file.target(self._places[slot]), fields, name) if self.has(slot) else None

    def tables(self, slot: int, fields: str, name: str) -> list[Table]:
        if not self.has(slot):
            return []
        count, start = self.file.vector(self._places[slot], 4)
        self.file.spend(count)
        return [Table(self.file, self.file.target(start + 4 * index), fields, name) for index in range(count)]

"""Reads from a kubectl binary how the Go types of the Kubernetes API stand in JSON.

A Go program carries the description of every type that it may reflect upon: for a struct, each
field's name, its type and its tag. kubectl knows all built-in kinds, so its descriptions say what
no schema does: which fields are pointers, and which leave their zero value out (`omitempty`,
`omitzero`). The layout is that of Go's package internal/abi (Go 1.22 to 1.26), for 64-bit programs
that are not relocated, as kubectl's are for Linux.
"""

import re
import struct

POINTER, SLICE, STRUCT, MAP = 22, 23, 25, 21
NAMED, UNCOMMON = 4, 1
HAS_TAG = 2


class Go:
    """The type descriptions of one program."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.sections = dict(self._sections())
        self.base = self.sections[".rodata"][0]

    def _sections(self):
        table, = struct.unpack_from("<Q", self.bytes, 40)
        size, count, names = struct.unpack_from("<HHH", self.bytes, 58)
        headers = [struct.unpack_from("<IIQQQQ", self.bytes, table + i * size) for i in range(count)]
        for name, _, _, address, offset, length in headers:
            start = headers[names][4] + name
            text = self.bytes[start : self.bytes.index(b"\0", start)].decode()
            yield text, (address, offset, length)

    def _at(self, address):
        for start, offset, length in self.sections.values():
            if start and start <= address < start + length:
                return address - start + offset
        raise ValueError(hex(address))

    def _read(self, form, address):
        return struct.unpack_from("<" + form, self.bytes, self._at(address))

    def _name(self, address):
        """Flags, name and tag."""
        at = self._at(address)
        flags, at = self.bytes[at], at + 1
        texts = []
        for _ in range(2 if flags & HAS_TAG else 1):
            length = shift = 0
            while True:
                byte, at = self.bytes[at], at + 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            texts.append(self.bytes[at : at + length].decode())
            at += length
        return flags, texts[0], texts[1] if len(texts) > 1 else ""

    def kind(self, type_):
        return self._read("B", type_ + 23)[0] & 31

    def element(self, type_):
        return self._read("Q", type_ + 48)[0]

    def value(self, type_):
        return self._read("Q", type_ + 56)[0]

    def identity(self, type_):
        """Package path and name of a named struct."""
        flags, = self._read("B", type_ + 20)
        if not flags & UNCOMMON or not flags & NAMED:
            return None
        text = self._name(self.base + self._read("i", type_ + 40)[0])[1]
        package = self._name(self.base + self._read("i", type_ + 80)[0])[1]
        return package, text.lstrip("*").split(".", 1)[1]

    def fields(self, type_):
        """Tag and type of each field of a struct."""
        start, count = self._read("QQ", type_ + 56)
        for i in range(count):
            name, field_type, _ = self._read("QQQ", start + 24 * i)
            yield self._name(name)[2], field_type

    def structs(self):
        """The named structs that the program has a pointer type of, and all that they hold."""
        _, offset, length = self.sections[".typelink"]
        links = struct.unpack_from(f"<{length // 4}i", self.bytes, offset)
        queue = [self.base + link for link in links]
        found, seen = {}, set()
        while queue:
            type_ = queue.pop()
            if type_ in seen:
                continue
            seen.add(type_)
            kind = self.kind(type_)
            if kind in (POINTER, SLICE):
                queue.append(self.element(type_))
            elif kind == MAP:
                queue.append(self.value(type_))
            elif kind == STRUCT and (identity := self.identity(type_)):
                if identity[0].startswith("k8s.io/"):
                    found[identity] = type_
                    queue.extend(field_type for _, field_type in self.fields(type_))
        return found


def json_fields(program):
    """(package path, struct) → JSON name → (leaves out its zero value, is no pointer)."""
    go = Go(program)
    result = {}
    for identity, type_ in go.structs().items():
        fields = {}
        for tag, field_type in go.fields(type_):
            json = re.search(r'json:"([^"]*)"', tag)
            name, *options = json.group(1).split(",") if json else [""]
            if name not in ("", "-"):
                leaves_out = "omitempty" in options or "omitzero" in options
                fields[name] = (leaves_out, go.kind(field_type) != POINTER)
        result[identity] = fields
    return result

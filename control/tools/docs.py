#!/usr/bin/env python3
"""Derives control/kinds/src/openapi/docs.tbl: what the reference says of the types in messages.tbl.

Run by hand after messages.py; the build does not need it:

    control/tools/docs.py K8S_OPENAPI_VERSION_SRC MESSAGES_TBL > control/kinds/src/openapi/docs.tbl

K8S_OPENAPI_VERSION_SRC is the folder of one version in the crate k8s-openapi. The texts are those of
the Kubernetes API (Apache-2.0).

A line `@io.k8s.api.core.v1.Container TEXT` is about a type, `image TEXT` below it about a field. A
line break in a text is written `\\n`, a backslash `\\\\`.
"""

import pathlib
import re
import sys

TEXT = r'"((?:[^"\\]|\\.)*)"'
PROPERTY = re.compile(
    r'^                "([^"]+)": (?:\{\n\s+"description": |\(\{\n.*\n\s+schema_obj\.ensure_object\(\)'
    r'\.insert\("description"\.into\(\), )' + TEXT,
    re.M,
)


def unescaped(text):
    """The text of a Rust literal, in one line."""
    text = re.sub(r"\\u\{([0-9a-f]+)\}", lambda m: chr(int(m.group(1), 16)), text)
    return text.replace('\\"', '"').replace("\\t", "\t").replace("\\'", "'")


def main():
    found = {}
    for file in pathlib.Path(sys.argv[1]).rglob("*.rs"):
        text = file.read_text()
        name = re.search(r'fn schema_name\(\)[^{]*\{\s*"([^"]+)"', text)
        if not name:
            continue
        schema = text[name.end() :].split("\n}\n", 1)[0]
        own = re.search(r'json_schema!\(\{\s*"description": ' + TEXT, schema)
        fields = [(m.group(1), unescaped(m.group(2))) for m in PROPERTY.finditer(schema)]
        found[name.group(1)] = (unescaped(own.group(1)) if own else "", fields)
    for line in pathlib.Path(sys.argv[2]).read_text().splitlines():
        if line.startswith("@") and line[1:] in found:
            own, fields = found[line[1:]]
            print(line, own)
            for field in fields:
                print(*field)


main()

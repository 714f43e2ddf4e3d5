"""Reads one XML file of a course, which anybody may have written.

OLX needs no document type, and entities can only be declared in one; so a file with a DOCTYPE is refused before anything
in it is expanded ("billion laughs"), and nothing outside the file can be named. Size, number of elements and depth are
bounded, because an element tree takes many times the bytes of its text.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

MAX_BYTES = 4 << 20
MAX_ELEMENTS = 100_000
MAX_DEPTH = 200


class Unreadable(Exception):
    """Why the file cannot be used, as the end of a sentence that begins with its name."""


class _Guard(ET.TreeBuilder):
    def __init__(self) -> None:
        super().__init__()
        self._elements = 0
        self._depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Unreadable("declares a document type (DOCTYPE), which course files never need")

    def start(self, tag: str, attributes: dict[str, str]) -> ET.Element:
        self._elements += 1
        self._depth += 1
        if self._elements > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            raise Unreadable("has more elements, or deeper ones, than a course file ever has")
        return super().start(tag, attributes)

    def end(self, tag: str) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def parse(file: Path) -> ET.Element:
    """The root element. Raises Unreadable, and FileNotFoundError when there is no such file."""
    with file.open("rb") as source:
        data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES >> 20} MiB")
    parser = ET.XMLParser(target=_Guard())
    try:
        parser.feed(data)
        return parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: an encoding nobody knows
        raise Unreadable(f"is not well-formed XML ({error})") from None

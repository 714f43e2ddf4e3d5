"""Writes course archives for demo and tests: a well-formed one, and those an attacker would send.

usage: archives.py KIND FILE
"""

import gzip
import io
import sys
import tarfile

CHAPTERS, SEQUENTIALS, VERTICALS = 4, 3, 2  # each holds that many of the next


def file(name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, io.BytesIO(content)


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, None


def course():
    """A course of 4 chapters, 12 sequentials, 24 verticals and 24 problems, each block in a file of its own."""
    members = [file("course/course.xml", b'<course url_name="run" org="Example" course="OUT1"/>')]

    def block(category, name, children, child):
        pointers = "".join(f'<{child} url_name="{c}"/>' for c in children)
        body = f'<{category} display_name="{category} {name}">{pointers}</{category}>'
        members.append(file(f"course/{category}/{name}.xml", body.encode()))

    names = [f"c{c}" for c in range(CHAPTERS)]
    block("course", "run", names, "chapter")
    for chapter in names:
        sequentials = [f"{chapter}s{s}" for s in range(SEQUENTIALS)]
        block("chapter", chapter, sequentials, "sequential")
        for sequential in sequentials:
            verticals = [f"{sequential}v{v}" for v in range(VERTICALS)]
            block("sequential", sequential, verticals, "vertical")
            for vertical in verticals:
                block("vertical", vertical, [f"{vertical}p"], "problem")
                members.append(file(f"course/problem/{vertical}p.xml", b'<problem display_name="Sum">1 + 1</problem>'))
    return members


def bomb():
    """One member that unpacks to a thousand times its packed size."""
    info = tarfile.TarInfo("course/big.bin")
    info.size = 512 << 20
    return [(info, Zeros(info.size))]


class Zeros(io.RawIOBase):
    """A file of zeros that is never in memory."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = self.left if size < 0 else min(size, self.left)
        self.left -= size
        return bytes(size)


EVIL = {
    "dotdot": lambda: [*course(), file("course/../../escaped.txt", b"out")],
    "absolute": lambda: [*course(), file("/tmp/escaped.txt", b"out")],
    "symlink": lambda: [
        *course(),
        link("course/static", "/etc", tarfile.SYMTYPE),
        file("course/static/escaped.txt", b"out"),
    ],
    "bomb": bomb,
}


def main(kind, path):
    if kind == "not-gzip":
        with open(path, "wb") as out:
            out.write(b"PK\x03\x04 this is no gzip archive")
        return
    members = course() if kind == "course" else EVIL[kind]()
    with gzip.GzipFile(path, "wb", compresslevel=9, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, content in members:
                archive.addfile(info, content)


if __name__ == "__main__":
    main(*sys.argv[1:])

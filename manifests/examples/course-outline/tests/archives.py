"""Makes archives, good and bad."""

import gzip
import io
import tarfile
from pathlib import Path

COURSE = {
    "course/course.xml": '<course url_name="2026" org="Example" course="Ex1"/>',
    "course/course/2026.xml": (
        '<course display_name="A small course" language="en" start="&quot;2026-01-01T00:00:00Z&quot;">'
        '<chapter url_name="first"/>'
        '<chapter url_name="inline" display_name="Inline"><sequential url_name="s2" display_name="S2">'
        '<vertical url_name="v2" display_name="V2"><html url_name="h2" display_name="H2">text</html><poll/><poll/></vertical>'
        "</sequential></chapter>"
        '<wiki slug="Example.Ex1"/></course>'
    ),
    "course/chapter/first.xml": '<chapter display_name="First"><sequential url_name="s1"/></chapter>',
    "course/sequential/s1.xml": '<sequential display_name="S1"><vertical url_name="v1"/></sequential>',
    "course/vertical/v1.xml": (
        '<vertical display_name="V1"><html url_name="h1"/><problem url_name="p1"/><library_content url_name="l1"/></vertical>'
    ),
    "course/html/h1.xml": '<html display_name="H1" filename="h1"/>',
    "course/html/h1.html": "<!DOCTYPE html><p>Not read as XML.",
    "course/problem/p1.xml": '<problem display_name="=1+1">x</problem>',
    "course/library_content/l1.xml": '<library_content display_name="L1"><problem url_name="p9"/></library_content>',
}


def course(**changes: str | None) -> dict[str, str]:
    """COURSE with files replaced or (None) removed. Keywords: path below course/, with __ for / and no .xml."""
    files: dict[str, str] = dict(COURSE)
    for name, content in changes.items():
        path = f"course/{name.replace('__', '/')}.xml"
        if content is None:
            del files[path]
        else:
            files[path] = content
    return files


def member(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tar_of_files(files: dict[str, str]) -> bytes:
    return tar_of(*(member(name, content.encode()) for name, content in files.items()))


def write(folder: Path, packed: bytes) -> Path:
    file = folder / "archive"
    file.write_bytes(packed)
    return file


def write_tar(folder: Path, tar: bytes) -> Path:
    return write(folder, gzip.compress(tar, compresslevel=9))

"""From the unpacked folder to the blocks of the course, in the order learners meet them.

In OLX a block is an element. It is written inline, or as a pointer (`<chapter url_name="intro"/>`) to the file
`chapter/intro.xml`. What a block cannot tell because its file is missing or broken is a problem to report, not a reason
to give up; only without course.xml and the file of the course itself there is nothing to outline.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import olx
from .errors import InvalidArchive, printable

LEVELS = ("course", "chapter", "sequential", "vertical")
COMPONENT = "component"  # whatever a vertical holds; what is inside of a component is not part of the outline
NOT_BLOCKS = {"wiki", "textbook", "grading_policy", "policy"}  # children of <course> that are settings
POINTER_ATTRIBUTES = {"url_name", "org", "course"}  # the last two on <course> only
NAME_LIMIT = 500  # characters of a display name
URL_NAME_LIMIT = 200
MAX_BLOCKS = 100_000  # a row holds the names of all its parents: without a limit a small archive could make a huge table
MAX_PROBLEMS = 1000  # kept; all are counted


@dataclass(frozen=True)
class Block:
    level: str
    category: str  # the OLX tag: chapter, html, problem…
    url_name: str
    display_name: str
    parent: str
    path: str  # display names from the course down
    file: str  # below the folder of the course; of inline blocks the file that holds them


@dataclass(frozen=True)
class Problem:
    code: str
    block: str
    message: str


@dataclass
class Outline:
    course_key: str = ""
    title: str = ""
    language: str = ""
    start: str = ""
    blocks: list[Block] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0


def course_folder(root: Path) -> Path:
    """The folder with course.xml: the root of the archive, or its only folder that has one."""
    found = [folder for folder in [root, *sorted(p for p in root.iterdir() if p.is_dir())] if (folder / "course.xml").is_file()]
    if not found:
        raise InvalidArchive("There is no course.xml in the archive, neither at the top nor in a folder there. Is it the export of a course (OLX)?")
    if len(found) > 1:
        raise InvalidArchive(f"The archive holds {len(found)} courses (folders with a course.xml). Upload one course at a time.")
    return found[0]


def walk(folder: Path, components: bool = True, progress: Callable[[int, int], None] | None = None) -> Outline:
    """`folder` as given by course_folder(). `progress` gets chapters: done, total."""
    return _Walk(folder, components, progress or (lambda done, total: None)).run()


class _Walk:
    def __init__(self, folder: Path, components: bool, progress: Callable[[int, int], None]) -> None:
        self._folder = folder
        self._components = components
        self._progress = progress
        self._outline = Outline()
        self._seen: set[tuple[str, str]] = set()

    def run(self) -> Outline:
        pointer = self._essential("course.xml")
        if pointer.tag != "course":
            raise InvalidArchive(f"course.xml begins with <{printable(pointer.tag, 40)}>, but must begin with <course>. Is it a library?")
        course, file = pointer, "course.xml"
        run = pointer.get("url_name", "")
        if _is_pointer(pointer):
            if not (file := _file_of("course", run)):
                raise InvalidArchive(f"course.xml names the course {printable(run)!r}, which is not the name of a file.")
            course = self._essential(file)
        self._outline.course_key = f"course-v1:{pointer.get('org', '')}+{pointer.get('course', '')}+{run}"
        self._outline.title = _display_name(course) or printable(run)
        self._outline.language = course.get("language", "")
        self._outline.start = course.get("start", "").strip('"')
        run = printable(run, URL_NAME_LIMIT)
        self._add("course", course, run, "", self._outline.title, file)

        children = [child for child in course if child.tag not in NOT_BLOCKS]
        for done, child in enumerate(children):
            self._progress(done, len(children))
            self._visit(child, "course", run, self._outline.title, file)
        self._progress(len(children), len(children))
        return self._outline

    def _essential(self, file: str) -> ET.Element:
        try:
            return olx.parse(self._folder / file)
        except FileNotFoundError:
            raise InvalidArchive(f"The archive names the file {printable(file)!r} but does not hold it. Export the course again.") from None
        except olx.Unreadable as error:
            raise InvalidArchive(f"The file {printable(file)!r} {error}. Export the course again.") from None

    def _visit(self, element: ET.Element, parent_level: str, parent: str, path: str, file: str) -> None:
        category, url_name = element.tag, printable(element.get("url_name", ""), URL_NAME_LIMIT)
        level = category if category in LEVELS else COMPONENT
        if level == COMPONENT and not self._components:
            return
        # Down only, and each block once: without this, files that name each other would never end.
        if level in LEVELS and LEVELS.index(level) <= LEVELS.index(parent_level):
            self._problem("MisplacedBlock", category, url_name, f"stands below a {parent_level}; it was left out")
            return
        if url_name and (category, url_name) in self._seen:
            self._problem("DuplicateBlock", category, url_name, "is in the course twice; the second one was left out")
            return
        self._seen.add((category, url_name))

        if _is_pointer(element):
            element, file = self._follow(element, file)
        name = _display_name(element)
        path = f"{path} / {name or url_name or category}"
        self._add(level, element, url_name, parent, path, file)
        if level in LEVELS:
            for child in element:
                self._visit(child, level, url_name, path, file)

    def _follow(self, pointer: ET.Element, file: str) -> tuple[ET.Element, str]:
        """The element a pointer stands for; the pointer itself when that cannot be had, so that the block is still listed."""
        category, url_name = pointer.tag, pointer.get("url_name", "")
        target = _file_of(category, url_name)
        if target is None:
            self._problem("InvalidName", category, url_name, "has a url_name that is not the name of a file")
            return pointer, file
        try:
            element = olx.parse(self._folder / target)
        except (FileNotFoundError, IsADirectoryError):
            self._problem("MissingFile", category, url_name, f"points to {target}, which is not in the archive")
            return pointer, file
        except olx.Unreadable as error:
            self._problem("UnreadableFile", category, url_name, f"points to {target}, which {error}")
            return pointer, file
        if element.tag != category:
            self._problem("WrongFile", category, url_name, f"points to {target}, which holds a <{printable(element.tag, 40)}>")
            return pointer, file
        return element, target

    def _add(self, level: str, element: ET.Element, url_name: str, parent: str, path: str, file: str) -> None:
        if len(self._outline.blocks) == MAX_BLOCKS:
            raise InvalidArchive(f"The course has more than {MAX_BLOCKS:,} blocks.")
        block = Block(level, element.tag, url_name, _display_name(element), parent, path, file)
        self._outline.blocks.append(block)

    def _problem(self, code: str, category: str, url_name: str, what: str) -> None:
        block = f"{printable(category, 40)}/{printable(url_name)}"
        self._outline.problem_count += 1
        if len(self._outline.problems) < MAX_PROBLEMS:
            self._outline.problems.append(Problem(code, block, f"{block} {what}."))


def _is_pointer(element: ET.Element) -> bool:
    return len(element) == 0 and not (element.text or "").strip() and "url_name" in element.attrib and element.attrib.keys() <= POINTER_ATTRIBUTES


def _file_of(category: str, url_name: str) -> str | None:
    """Where a pointer leads. Both parts come from the archive: neither may lead out of the folder."""
    parts = [category, *url_name.split(":")]  # a colon stands for a folder
    if any(part in ("", ".", "..") or "/" in part or "\0" in part or len(part.encode()) > URL_NAME_LIMIT for part in parts):
        return None
    return "/".join(parts) + ".xml"


def _display_name(element: ET.Element) -> str:
    return printable(element.get("display_name", "").strip(), NAME_LIMIT)

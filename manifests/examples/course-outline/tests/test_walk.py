import tempfile
import unittest
from pathlib import Path
from unittest import mock

from course_outline import walk as module
from course_outline.errors import InvalidArchive
from course_outline.walk import Outline, course_folder, walk

from .archives import course
from .test_olx import LAUGHS


class Walk(unittest.TestCase):
    def folder(self, files: dict[str, str]) -> Path:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        root = Path(temporary.name) / "root"
        root.mkdir()
        for name, content in files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        return root

    def walk(self, files: dict[str, str], **options: object) -> Outline:
        return walk(course_folder(self.folder(files)), **options)

    def names(self, outline: Outline) -> list[str]:
        return [f"{block.category}/{block.url_name}" for block in outline.blocks]

    def problems(self, outline: Outline) -> list[tuple[str, str]]:
        return [(problem.code, problem.block) for problem in outline.problems]

    def test_finds_pointers_and_inline_blocks_in_course_order(self) -> None:
        outline = self.walk(course())
        self.assertEqual(
            self.names(outline),
            ["course/2026", "chapter/first", "sequential/s1", "vertical/v1", "html/h1", "problem/p1", "library_content/l1"]
            + ["chapter/inline", "sequential/s2", "vertical/v2", "html/h2", "poll/", "poll/"],
        )
        self.assertEqual(outline.problems, [])
        self.assertEqual(
            (outline.course_key, outline.title, outline.language, outline.start),
            ("course-v1:Example+Ex1+2026", "A small course", "en", "2026-01-01T00:00:00Z"),
        )
        block = outline.blocks[4]
        self.assertEqual((block.level, block.parent, block.file), ("component", "v1", "html/h1.xml"))
        self.assertEqual(block.path, "A small course / First / S1 / V1 / H1")
        self.assertEqual(outline.blocks[10].file, "course/2026.xml")

    def test_leaves_components_out_when_told_to(self) -> None:
        outline = self.walk(course(problem__p1=None), components=False)
        self.assertEqual({block.level for block in outline.blocks}, {"course", "chapter", "sequential", "vertical"})
        self.assertEqual(outline.problems, [], "a component that nobody asked for is not looked at")

    def test_tells_how_many_chapters_are_done(self) -> None:
        told: list[tuple[int, int]] = []
        self.walk(course(), progress=lambda done, total: told.append((done, total)))
        self.assertEqual(told, [(0, 2), (1, 2), (2, 2)])

    def test_takes_a_course_at_the_top_and_a_course_that_is_one_file(self) -> None:
        one = '<course url_name="r" org="o" course="c"><chapter url_name="x" display_name="X"/></course>'
        self.assertEqual(self.names(self.walk({"course.xml": one, "static/a.png": ""})), ["course/r", "chapter/x"])

    def test_a_colon_in_a_name_stands_for_a_folder(self) -> None:
        files = course(vertical__v1='<vertical><html url_name="a:b"/></vertical>') | {"course/html/a/b.xml": '<html display_name="AB"/>'}
        self.assertIn("AB", [block.display_name for block in self.walk(files).blocks])

    # --- nothing to outline

    def test_needs_exactly_one_course_xml(self) -> None:
        with self.assertRaisesRegex(InvalidArchive, "no course.xml"):
            self.walk(course(course=None))
        with self.assertRaisesRegex(InvalidArchive, "2 courses"):
            self.walk(course() | {"other/course.xml": "<course/>"})

    def test_needs_the_file_of_the_course(self) -> None:
        with self.assertRaisesRegex(InvalidArchive, "names the file 'course/2026.xml' but does not hold it"):
            self.walk(course(course__2026=None))

    def test_needs_a_readable_course_xml(self) -> None:
        for content, pattern in ((LAUGHS, "DOCTYPE"), ("<course", "not well-formed"), ("<library/>", "must begin with <course>")):
            with self.subTest(pattern=pattern), self.assertRaisesRegex(InvalidArchive, pattern):
                self.walk(course(course=content))

    def test_the_course_pointer_cannot_leave_the_folder(self) -> None:
        with self.assertRaisesRegex(InvalidArchive, "not the name of a file"):
            self.walk(course(course='<course url_name="../../secret" org="o" course="c"/>') | {"secret.xml": "<course/>"})

    # --- problems

    def test_reports_a_missing_file_and_still_lists_the_block(self) -> None:
        outline = self.walk(course(sequential__s1=None))
        self.assertEqual(self.problems(outline), [("MissingFile", "sequential/s1")])
        self.assertIn("sequential/s1", self.names(outline))
        self.assertIn("points to sequential/s1.xml, which is not in the archive", outline.problems[0].message)

    def test_reports_broken_and_hostile_files(self) -> None:
        for content, code in ((LAUGHS, "UnreadableFile"), ("<problem", "UnreadableFile"), ("<html/>", "WrongFile")):
            with self.subTest(code=code):
                self.assertEqual(self.problems(self.walk(course(problem__p1=content))), [(code, "problem/p1")])

    def test_a_pointer_cannot_leave_the_folder(self) -> None:
        for name in ("../../secret", "/secret", "..:..:secret", "a/../../../secret"):
            with self.subTest(name=name):
                files = course(vertical__v1=f'<vertical><html url_name="{name}"/></vertical>') | {"secret.xml": '<html display_name="leaked"/>'}
                outline = self.walk(files)
                self.assertEqual([problem.code for problem in outline.problems], ["InvalidName"])
                self.assertNotIn("leaked", [block.display_name for block in outline.blocks])

    def test_files_that_name_each_other_end(self) -> None:
        outline = self.walk(course(vertical__v1='<vertical><vertical url_name="v1"/><chapter url_name="first"/></vertical>'))
        self.assertEqual([code for code, _ in self.problems(outline)], ["MisplacedBlock", "MisplacedBlock"])

    def test_a_block_is_listed_once(self) -> None:
        outline = self.walk(course(chapter__first='<chapter><sequential url_name="s1"/><sequential url_name="s1"/></chapter>'))
        self.assertEqual(self.problems(outline), [("DuplicateBlock", "sequential/s1")])
        self.assertEqual(self.names(outline).count("sequential/s1"), 1)

    def test_amounts_are_bounded(self) -> None:
        with mock.patch.object(module, "MAX_BLOCKS", 5), self.assertRaisesRegex(InvalidArchive, "more than 5 blocks"):
            self.walk(course())
        with mock.patch.object(module, "MAX_PROBLEMS", 1):
            outline = self.walk(course(html__h1=None, problem__p1=None))
        self.assertEqual((len(outline.problems), outline.problem_count), (1, 2))

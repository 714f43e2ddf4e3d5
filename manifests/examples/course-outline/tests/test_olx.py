import tempfile
import unittest
from pathlib import Path

from course_outline import olx

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi"))
    + "]><course>&i;</course>"
)
EXTERNAL = '<!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/passwd">]><course>&x;</course>'


class Parse(unittest.TestCase):
    def parse(self, content: str | bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.xml"
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
            return olx.parse(file)

    def assert_unreadable(self, content: str | bytes, pattern: str) -> None:
        with self.assertRaisesRegex(olx.Unreadable, pattern):
            self.parse(content)

    def test_reads_a_plain_file(self) -> None:
        element = self.parse('<?xml version="1.0" encoding="UTF-8"?><a b="é &amp; ü"><!-- c --><c/></a>')
        self.assertEqual((element.tag, element.get("b"), [c.tag for c in element]), ("a", "é & ü", ["c"]))

    def test_refuses_every_document_type(self) -> None:
        for content in (LAUGHS, EXTERNAL, "<!DOCTYPE course><course/>", '<!DOCTYPE course SYSTEM "http://example.org/x.dtd"><course/>'):
            self.assert_unreadable(content, "DOCTYPE")

    def test_refuses_the_laughs_in_another_encoding(self) -> None:
        self.assert_unreadable(LAUGHS.removeprefix('<?xml version="1.0"?>').encode("utf-16"), "DOCTYPE")

    def test_refuses_what_is_not_xml(self) -> None:
        for content in ("", "<a>", "<a></b>", "<a>&nbsp;</a>", b"<a>\xff</a>", '<?xml version="1.0" encoding="nonsense"?><a/>'):
            self.assert_unreadable(content, "not well-formed")

    def test_refuses_too_much(self) -> None:
        self.assert_unreadable("<a>" + "<b/>" * olx.MAX_ELEMENTS + "</a>", "more elements")
        self.assert_unreadable("<a>" * (olx.MAX_DEPTH + 1), "more elements")
        self.assert_unreadable("<a>" + " " * olx.MAX_BYTES + "</a>", "larger than 4 MiB")

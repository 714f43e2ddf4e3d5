import gzip
import random
import tarfile
import tempfile
import unittest
from pathlib import Path

from course_outline.errors import InvalidArchive
from course_outline.unpack import Limits, unpack

from .archives import COURSE, member, tar_of, tar_of_files, write, write_tar

MIB = 1 << 20


class Unpack(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.base = Path(temporary.name)
        self.root = self.base / "inner" / "root"
        self.root.mkdir(parents=True)

    def assert_refused(self, archive: Path, pattern: str, limits: Limits = Limits()) -> None:
        with self.assertRaisesRegex(InvalidArchive, pattern):
            unpack(archive, self.root, limits)
        outside = [p for p in self.base.rglob("*") if p.is_file() and self.root not in p.parents]
        self.assertEqual(outside, [archive], "something was written outside of the root")

    def refuses(self, *members: tuple[tarfile.TarInfo, bytes], pattern: str, limits: Limits = Limits()) -> None:
        self.assert_refused(write_tar(self.base, tar_of(*members)), pattern, limits)

    # --- what is taken

    def test_takes_files_and_folders_and_tells_how_far_it_is(self) -> None:
        told: list[tuple[int, int]] = []
        archive = write_tar(self.base, tar_of(member("c", type=tarfile.DIRTYPE), member("./c/a.xml", b"<a/>"), member("c/d/empty")))
        result = unpack(archive, self.root, progress=lambda done, total: told.append((done, total)))
        self.assertEqual((result.files, result.folders, result.bytes), (2, 1, 4))
        self.assertEqual((self.root / "c/a.xml").read_bytes(), b"<a/>")
        self.assertEqual((self.root / "c/d/empty").read_bytes(), b"")
        self.assertEqual(told[-1], (archive.stat().st_size,) * 2)

    def test_takes_long_and_foreign_names(self) -> None:
        for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            with self.subTest(format=format):
                name = f"c{format}/" + "é" * 100 + "/" + "n" * 150 + ".xml"
                info, content = member(name, b"x")
                packed = info.tobuf(format) + content.ljust(512, b"\0") + bytes(1024)
                unpack(write_tar(self.base, packed), self.root)
                self.assertTrue((self.root / name).is_file())

    def test_written_files_are_plain_whatever_their_mode_says(self) -> None:
        unpack(write_tar(self.base, tar_of(member("a", b"x", mode=0o6777))), self.root)
        self.assertEqual((self.root / "a").stat().st_mode & 0o7777, 0o600)

    # --- paths

    def test_refuses_a_path_that_climbs_out(self) -> None:
        for name in ("../evil", "c/../../evil", "c/.."):
            with self.subTest(name=name):
                self.refuses(member(name, b"x"), pattern="leads out of the course")

    def test_refuses_an_absolute_path(self) -> None:
        self.refuses(member("/tmp/evil", b"x"), pattern="absolute path '/tmp/evil'")

    def test_refuses_names_that_are_too_long_or_too_deep(self) -> None:
        for name in ("a/" * 20 + "b", "n" * 256, "/".join(["n" * 200] * 6)):
            with self.subTest(name=name[:20]):
                self.refuses(member(name, b"x"), pattern="too long or too deep")

    def test_refuses_a_file_that_is_there_already(self) -> None:
        self.refuses(member("a", b"1"), member("./a", b"2"), pattern="twice")
        self.assertEqual((self.root / "a").read_bytes(), b"1")

    def test_refuses_a_file_used_as_a_folder_and_the_reverse(self) -> None:
        self.refuses(member("a", b"1"), member("a/b", b"2"), pattern="as a file and as a folder")
        self.refuses(member("d", type=tarfile.DIRTYPE), member("d", b"2"), pattern="as a file and as a folder")
        self.refuses(member(".", b"2"), pattern="as a file and as a folder")

    def test_messages_show_no_control_characters(self) -> None:
        with self.assertRaises(InvalidArchive) as raised:
            unpack(write_tar(self.base, tar_of(member("/a\n\x1b[31m\udcff", b"x"))), self.root)
        self.assertTrue(str(raised.exception).isprintable())

    # --- kinds

    def test_refuses_links(self) -> None:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            for target in ("../../etc/passwd", "/etc/passwd", "harmless"):
                with self.subTest(kind=kind, target=target):
                    self.refuses(member("c/link", type=kind, linkname=target), pattern="the link 'c/link'")

    def test_refuses_to_write_through_a_link(self) -> None:
        self.refuses(member("out", type=tarfile.SYMTYPE, linkname=".."), member("out/evil", b"x"), pattern="the link 'out'")

    def test_refuses_devices_and_pipes(self) -> None:
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            with self.subTest(kind=kind):
                self.refuses(member("c/dev", type=kind), pattern="a device or a pipe")

    def test_refuses_sparse_files_and_unknown_kinds(self) -> None:
        self.refuses(member("c/x", type=b"Z"), pattern="neither a plain file nor a folder")
        sparse, _ = member("c/x", type=tarfile.GNUTYPE_SPARSE)
        self.refuses((sparse, b""), pattern="neither a plain file nor a folder")

    # --- amounts

    def test_stops_a_bomb_early(self) -> None:
        bomb = write(self.base, gzip.compress(member("zeros", size=100 * MIB)[0].tobuf() + bytes(100 * MIB), 9))
        self.assertGreater(100 * MIB / bomb.stat().st_size, 900)
        self.assert_refused(bomb, "decompression bomb")
        self.assertLess((self.root / "zeros").stat().st_size, 48 * MIB)

    def test_refuses_too_many_members(self) -> None:
        files = [member(str(n)) for n in range(11)]
        self.refuses(*files, pattern="more than 10 files", limits=Limits(members=10))
        self.assertEqual(unpack(write_tar(self.base, tar_of(*files)), self.base / "inner", Limits(members=11)).files, 11)

    def test_refuses_a_file_and_a_sum_over_the_limit_before_writing_it(self) -> None:
        self.refuses(member("a", b"x" * 11), pattern="is larger than", limits=Limits(file_bytes=10))
        self.refuses(member("b", b"x" * 6), member("c", b"x" * 6), pattern="unpacks to more than", limits=Limits(total_bytes=10))
        self.assertFalse((self.root / "a").exists() or (self.root / "c").exists())

    def test_refuses_a_size_that_is_not_there(self) -> None:
        header = member("a", size=5000)[0].tobuf()
        self.assert_refused(write_tar(self.base, header + b"x" * 600), "ends inside 'a'")

    def test_refuses_a_negative_size(self) -> None:
        header = bytearray(member("a")[0].tobuf())
        header[124:136] = b"\xff" * 12
        header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header)[0]
        self.assert_refused(write_tar(self.base, bytes(header) + bytes(1024)), "is larger than|not readable|no readable")

    def test_refuses_a_header_that_would_fill_the_memory(self) -> None:
        for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            with self.subTest(kind=kind):
                noise = random.Random(1).randbytes(3 * MIB)
                self.assert_refused(write_tar(self.base, member("h", type=kind, size=len(noise))[0].tobuf() + noise), "between its files")

    def test_refuses_headers_of_headers_without_end(self) -> None:
        header = member("h", type=tarfile.GNUTYPE_LONGNAME, size=1)[0].tobuf() + b"a".ljust(512, b"\0")
        self.assert_refused(write_tar(self.base, header * 1000), "header in it is not readable")

    # --- broken files

    def test_refuses_what_is_not_gzip(self) -> None:
        for content in (b"PK\x03\x04 a zip file", tar_of_files(COURSE)):
            self.assert_refused(write(self.base, content), "not a .tar.gz archive")

    def test_refuses_an_empty_file(self) -> None:
        self.assert_refused(write(self.base, b""), "no readable tar archive")

    def test_refuses_gzip_without_a_tar_inside(self) -> None:
        self.assert_refused(write(self.base, gzip.compress(b"hello " * 1000)), "no readable tar archive")

    def test_refuses_a_gzip_that_is_cut_off_anywhere(self) -> None:
        packed = write_tar(self.base, tar_of_files(COURSE)).read_bytes()
        for length in (5, len(packed) // 2, len(packed) - 1):
            with self.subTest(length=length):
                self.setUp()
                self.assert_refused(write(self.base, packed[:length]), "ends too early")

    def test_refuses_a_wrong_checksum(self) -> None:
        packed = bytearray(write_tar(self.base, tar_of_files(COURSE)).read_bytes())
        packed[-8] ^= 0xFF
        self.assert_refused(write(self.base, bytes(packed)), "damaged")

    def test_refuses_a_tar_without_an_end(self) -> None:
        header = member("a", b"x")[0].tobuf() + b"x".ljust(512, b"\0")
        self.assert_refused(write_tar(self.base, header), "no proper end")

    def test_does_not_take_a_broken_header_for_the_end(self) -> None:
        tar = bytearray(tar_of(member("a", b"x"), member("b", b"y")))
        tar[1024 + 10] ^= 0xFF
        self.assert_refused(write_tar(self.base, bytes(tar)), "no proper end")

    def test_random_damage_is_always_the_archives_fault(self) -> None:
        chance = random.Random(7)
        tar = tar_of_files(COURSE)
        for round in range(200):
            damaged = bytearray(tar)
            for _ in range(chance.randint(1, 8)):
                damaged[chance.randrange(len(tar))] = chance.randrange(256)
            root = self.base / "rounds" / str(round)
            root.mkdir(parents=True)
            try:
                unpack(write_tar(self.base, bytes(damaged)), root)
            except InvalidArchive:
                pass

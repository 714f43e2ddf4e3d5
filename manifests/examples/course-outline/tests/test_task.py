"""The task as the agent starts it: a process with nothing but the variables of the contract."""

import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from .archives import course, tar_of_files

PACKAGE = Path(__file__).parents[1]


class Task(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.work = Path(temporary.name)
        for folder in ("inputs", "outputs"):
            (self.work / folder).mkdir()
        agent = self.work / "agent"
        agent.write_text(f"#!/bin/sh\nfor word; do printf '%s|' \"$word\"; done >>{self.work}/calls\necho >>{self.work}/calls\n")
        agent.chmod(0o755)

    def run_task(self, archive: bytes, parameters: object = {}) -> subprocess.CompletedProcess[str]:
        (self.work / "inputs/archive").write_bytes(archive)
        (self.work / "parameters.json").write_text(json.dumps(parameters))
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PACKAGE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.work / "tmp"),
            "ASYNCTASK_AGENT": str(self.work / "agent"),
            "ASYNCTASK_PARAMETERS": str(self.work / "parameters.json"),
            "ASYNCTASK_INPUTS": str(self.work / "inputs"),
            "ASYNCTASK_OUTPUTS": str(self.work / "outputs"),
        }
        return subprocess.run([sys.executable, "-m", "course_outline"], env=environment, cwd="/", capture_output=True, text=True)

    def calls(self) -> list[list[str]]:
        return [line.rstrip("|").split("|") for line in (self.work / "calls").read_text().splitlines()]

    def outline(self) -> list[dict[str, str]]:
        with (self.work / "outputs/outline.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def test_a_course_gives_an_outline_and_a_summary(self) -> None:
        result = self.run_task(gzip.compress(tar_of_files(course(html__h1=None))))
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        summary = json.loads((self.work / "outputs/summary.json").read_text())
        self.assertEqual(summary["courseKey"], "course-v1:Example+Ex1+2026")
        self.assertEqual(summary["counts"], {"course": 1, "chapter": 2, "sequential": 2, "vertical": 2, "component": 6})
        self.assertEqual(summary["components"], {"html": 2, "library_content": 1, "poll": 2, "problem": 1})
        self.assertEqual((summary["problemCount"], summary["problems"][0]["code"]), (1, "MissingFile"))
        self.assertEqual(len(self.outline()), 13)
        self.assertEqual([call[1] for call in self.calls() if call[0] == "stage"], ["Unpacking", "Walking", "Writing"])
        self.assertIn(["progress", "2", "2", "--unit", "chapters", "--message", "Reading the course"], self.calls())
        self.assertEqual(list((self.work / "tmp").iterdir()), [], "nothing is left behind")

    def test_a_display_name_is_not_a_formula(self) -> None:
        self.run_task(gzip.compress(tar_of_files(course())))
        self.assertIn("'=1+1", [row["display_name"] for row in self.outline()])

    def test_components_can_be_left_out(self) -> None:
        self.run_task(gzip.compress(tar_of_files(course())), {"includeComponents": False})
        summary = json.loads((self.work / "outputs/summary.json").read_text())
        self.assertEqual(summary["counts"], {"course": 1, "chapter": 2, "sequential": 2, "vertical": 2})
        self.assertNotIn("components", summary)
        self.assertEqual(len(self.outline()), 7)

    def test_a_broken_archive_is_told_in_a_sentence(self) -> None:
        for archive in (b"no archive", gzip.compress(tar_of_files({"readme": "no course"}))):
            with self.subTest(archive=archive[:10]):
                result = self.run_task(archive)
                self.assertEqual(result.returncode, 65)
                fail = self.calls()[-1]
                self.assertEqual(fail[:4], ["fail", "--code", "InvalidArchive", "--message"])
                self.assertTrue(fail[4].endswith((".", "?")))
                self.assertEqual(list((self.work / "outputs").iterdir()), [])
                self.assertEqual(list((self.work / "tmp").iterdir()), [])

    def test_what_is_not_the_archives_fault_is_worth_another_try(self) -> None:
        (self.work / "outputs").rmdir()
        (self.work / "outputs").write_text("in the way")
        self.assertEqual(self.run_task(gzip.compress(tar_of_files(course()))).returncode, 1)

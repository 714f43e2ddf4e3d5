"""The task. What it finds in its environment is the whole contract; see README.md."""

import json
import os
import sys
import tempfile
from pathlib import Path

from .agent import Agent
from .errors import InvalidArchive
from .unpack import unpack
from .walk import course_folder, walk
from .write import write_outline, write_summary

INVALID_ARCHIVE = 65  # EX_DATAERR. 64 to 78 say: wrong input, trying again would not help


def main() -> int:
    agent = Agent.from_environment()
    parameters = json.loads(Path(os.environ["ASYNCTASK_PARAMETERS"]).read_text(encoding="utf-8"))
    archive = Path(os.environ["ASYNCTASK_INPUTS"]) / "archive"
    outputs = Path(os.environ["ASYNCTASK_OUTPUTS"])
    temporary = Path(os.environ.get("TMPDIR", "/asynctask/work/tmp"))
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        # A folder of its own, empty at each attempt, gone at the end.
        with tempfile.TemporaryDirectory(prefix="course-", dir=temporary) as folder:
            outline_of(archive, Path(folder), outputs, bool(parameters.get("includeComponents", True)), agent)
    except InvalidArchive as error:
        print(f"invalid archive: {error}", file=sys.stderr)
        agent.fail("InvalidArchive", str(error))
        return INVALID_ARCHIVE
    return 0


def outline_of(archive: Path, folder: Path, outputs: Path, components: bool, agent: Agent) -> None:
    agent.stage("Unpacking")
    unpacked = unpack(archive, folder, progress=lambda done, total: agent.progress(done, total, "bytes", "Unpacking the archive"))
    print(f"unpacked {unpacked.files} files, {unpacked.bytes} bytes")

    agent.stage("Walking")
    outline = walk(course_folder(folder), components, lambda done, total: agent.progress(done, total, "chapters", "Reading the course"))
    print(f"{outline.course_key}: {len(outline.blocks)} blocks, {outline.problem_count} problems")

    agent.stage("Writing")
    outputs.mkdir(parents=True, exist_ok=True)
    write_outline(outline, outputs / "outline.csv")
    write_summary(outline, outputs / "summary.json", components)
    agent.progress(2, 2, "files", "Outline written")


if __name__ == "__main__":
    sys.exit(main())

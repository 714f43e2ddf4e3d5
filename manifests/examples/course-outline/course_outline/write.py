"""outline.csv and summary.json."""

import csv
import json
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

from .walk import COMPONENT, LEVELS, Block, Outline

COLUMNS = [column.name for column in fields(Block)]


def write_outline(outline: Outline, file: Path) -> None:
    """One row a block, in course order. UTF-8, comma, header line."""
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as target:
        rows = csv.writer(target)
        rows.writerow(COLUMNS)
        for block in outline.blocks:
            rows.writerow(_cell(value) for value in asdict(block).values())


def write_summary(outline: Outline, file: Path, components: bool) -> None:
    file.write_text(json.dumps(summary(outline, components), indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")


def summary(outline: Outline, components: bool) -> dict[str, object]:
    levels = Counter(block.level for block in outline.blocks)
    result: dict[str, object] = {
        "courseKey": outline.course_key,
        "title": outline.title,
        "language": outline.language,
        "start": outline.start,
        "counts": {level: levels[level] for level in (*LEVELS, COMPONENT) if level != COMPONENT or components},
    }
    if components:
        kinds = Counter(block.category for block in outline.blocks if block.level == COMPONENT)
        result["components"] = dict(sorted(kinds.items()))
    result["problemCount"] = outline.problem_count
    result["problems"] = [asdict(problem) for problem in outline.problems]
    return result


def _cell(value: str) -> str:
    """A course author chooses this text and a spreadsheet opens it: it must not be taken for a formula."""
    return "'" + value if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

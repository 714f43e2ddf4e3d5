#!/usr/bin/env python3
"""Runs stages and test suites, and says what they took and came to.

usage: runner.py stage NAME -- COMMAND…       runs a command; its lines are shown with its name before them
       cargo test --no-run --message-format=json-render-diagnostics … | runner.py found
                                              remembers where cargo put the compiled suites
       runner.py suite SUITE… [--as NAME] [--size WORDS] [--limit SECONDS] [--show TEST] [-- ARGUMENTS…]
                                              runs compiled suites; tests that fail are shown with what they said, and those
                                              that take long.
                                              SUITE is the name of a test target, or of a crate for its unit tests
       runner.py took NAME SECONDS            notes a part of a stage that has just ended
       runner.py show [CODE]                  stages, slowest tests and failures so far; exit code 1 if anything failed, or
                                              make did, with this code
       runner.py table [CODE]                 the same as one table of suites, for long runs

The folder $TEST_REPORT, if it is set, keeps what was run: `stages` and `tests`, one JSON object a line, and
the whole output of each suite in NAME.log and NAME.stderr.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CACHE = Path(os.environ.get("ASYNCTASK_CACHE") or Path.home() / ".cache" / "asynctask-operator")
REPORT = Path(os.environ.get("TEST_REPORT") or CACHE / "report")
ROOT = Path(__file__).resolve().parent.parent
# Checkouts share a cache, and each has suites of its own.
SUITES = CACHE / "suites" / f"{str(ROOT).strip('/').replace('/', '-')}.json"
SLOWEST = 20
# Seconds from which on a test that passed has a line: hundreds take none.
TOLD = 0.5
# The test harness tells times in its JSON format only, which it calls unstable: that of the stable channel offers it when
# this variable is set. The binary is the same.
UNSTABLE = {"RUSTC_BOOTSTRAP": "1"}
FORMAT = ["-Z", "unstable-options", "--format=json", "--report-time", "--show-output"]


def write_down(kind, entry):
    if "TEST_REPORT" not in os.environ:  # a step by itself, maybe beside a run that is written down
        return
    REPORT.mkdir(parents=True, exist_ok=True)
    with open(REPORT / kind, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(entry) + "\n")


def written(kind):
    file = REPORT / kind
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def stage(name, command):
    def say(line):
        print(f"{name:<14}│ {line}", flush=True)

    began = time.time()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout:
            say(line.rstrip("\n"))
    seconds, code = time.time() - began, process.returncode
    write_down("stages", {"name": name, "began": began, "seconds": seconds, "code": code})
    say(f"{'done' if code == 0 else 'FAILED'} after {seconds:.0f} s")
    return code


def found():
    """Reads cargo's messages: what was compiled for tests, and the folder that it runs each in."""
    suites = {}
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact" or not message["executable"] or not message["profile"]["test"]:
            continue
        folder = str(Path(message["manifest_path"]).parent)
        suites[message["target"]["name"]] = {"program": message["executable"], "folder": folder}
    if not suites:
        print("cargo compiled no suite", file=sys.stderr)
        return 1
    SUITES.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(SUITES.read_text(encoding="utf-8")) if SUITES.exists() else {}
    SUITES.write_text(json.dumps(known | suites, indent=1), encoding="utf-8")
    return 0


class Tests:
    """What the tests of one suite come to, by the events of the harness."""

    def __init__(self, name, shown):
        self.name, self.shown = name, shown
        self.running = {}
        self.count = {"ok": 0, "failed": 0, "ignored": 0}

    def line(self, line):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "type" not in event:  # what a test says itself, with --nocapture
            print(line.rstrip("\n"), flush=True)
        elif event["type"] == "test":
            self.event(event["name"], event["event"], event)

    def event(self, test, what, event):
        if what == "started":
            self.running[test] = time.time()
        elif what in self.count:
            began = self.running.pop(test, time.time())
            self.count[what] += 1
            if what != "ignored":
                self.ended(test, event.get("exec_time", time.time() - began), what == "ok", event.get("stdout", ""))

    def ended(self, test, seconds, passed, said):
        write_down("tests", {"suite": self.name, "test": test, "seconds": seconds, "ok": passed})
        if not passed or seconds >= TOLD:
            print(f"{'ok    ' if passed else 'FAILED'} {seconds:7.1f} s  {test}", flush=True)
        if not passed or self.shown and self.shown in test:
            print(said.rstrip(), flush=True)


def suites(options, arguments):
    compiled = json.loads(SUITES.read_text(encoding="utf-8"))
    missing = [name for name in options.suites if name not in compiled]
    if missing:
        print(f"no suite {', '.join(missing)}: there are {', '.join(sorted(compiled))}", file=sys.stderr)
        return 2
    # Two at a time: some tests wait, and the suite after them need not.
    with ThreadPoolExecutor(max_workers=2) as pool:
        codes = pool.map(lambda name: suite(options.name or name, compiled[name], options, arguments), options.suites)
        # One that was killed ends below zero.
        return int(any(list(codes)))


def suite(name, its, options, arguments):
    tests = Tests(name, options.show)
    environment = {**os.environ, **UNSTABLE, "CARGO_MANIFEST_DIR": its["folder"]}
    REPORT.mkdir(parents=True, exist_ok=True)
    write_down("sizes", {"name": name, "size": options.size or ""})
    # What is said past the harness, by other threads and processes, is nobody's in particular.
    beside = REPORT / f"{name}.stderr"
    with open(REPORT / f"{name}.log", "a", encoding="utf-8") as log, open(beside, "a", encoding="utf-8") as errors, \
            subprocess.Popen([its["program"], *FORMAT, *arguments], cwd=its["folder"], env=environment, text=True,
                             errors="replace", stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process:

        def stop():
            print(f"not over after {options.limit} s: stopped", flush=True)
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(options.limit, stop)
        timer.start()
        for line in process.stdout:
            log.write(line)
            tests.line(line)
        timer.cancel()
    for test, began in tests.running.items():
        last = "\n".join(beside.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        tests.ended(test, time.time() - began, False, f"its process ended in it, with {process.returncode}\n{last}")
    count = tests.count
    print(f"{name}: {count['ok']} passed, {count['failed']} failed, {count['ignored']} ignored", flush=True)
    return process.returncode


def show(code):
    stages, tests = written("stages"), written("tests")
    first = min((stage["began"] for stage in stages), default=time.time())
    last = max((stage["began"] + stage["seconds"] for stage in stages), default=first)
    print(f"\n{'stage':<18}{'began after':>13}{'took':>10}")
    for entry in sorted(stages, key=lambda entry: entry["began"]):
        print(f"{entry['name']:<18}{entry['began'] - first:>11.0f} s{entry['seconds']:>8.0f} s"
              f"{'  FAILED' if entry['code'] else ''}")
    print(f"\nthe {SLOWEST} slowest tests")
    for test in sorted(tests, key=lambda test: -test["seconds"])[:SLOWEST]:
        print(f"{test['seconds']:>9.1f} s  {test['suite']:<22}{test['test']}")
    failed = [f"{test['suite']}: {test['test']}" for test in tests if not test["ok"]]
    broken = [f"stage {entry['name']} ended with {entry['code']}" for entry in stages if entry["code"]]
    print("".join(f"\nFAILED  {line}" for line in failed + broken))
    if code and not broken:
        print(f"FAILED  make ended with {code}, outside of all stages: see above")
    passed = bool(tests) and not failed and not broken and not code
    print(f"test result: {'ok' if passed else 'FAILED'}. {len(tests) - len(failed)} passed; {len(failed)} failed; "
          f"{len(broken)} of {len(stages)} stages failed; finished in {last - first:.0f} s")
    return 0 if passed else 1


def table(code):
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    sizes = {entry["name"]: entry["size"] for entry in written("sizes")}
    rows = [("suite", "size", "seconds", "verdict", "commit")]
    for entry in written("stages"):
        verdict = "FAILED" if entry["code"] else "ok"
        rows.append((entry["name"], sizes.get(entry["name"], ""), f"{entry['seconds']:.0f}", verdict, commit.stdout.strip()))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if code:
        print(f"FAILED  the last failure of make was {code}: see above")
    return int(bool(code) or any(entry["code"] for entry in written("stages")))


def main(arguments):
    command = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("stage").add_argument("name")
    took = verbs.add_parser("took")
    took.add_argument("name")
    took.add_argument("seconds", type=float)
    verbs.add_parser("found")
    for verb in ("show", "table"):
        verbs.add_parser(verb).add_argument("code", type=int, nargs="?", default=0)
    of_suite = verbs.add_parser("suite")
    of_suite.add_argument("suites", nargs="+")
    of_suite.add_argument("--as", dest="name")
    of_suite.add_argument("--size", help="how much of it, in words, for the table")
    of_suite.add_argument("--limit", type=float, default=2400)
    of_suite.add_argument("--show")
    options = parser.parse_args(arguments)
    if options.verb == "stage":
        return stage(options.name, command)
    if options.verb == "took":
        began = time.time() - options.seconds
        return write_down("stages", {"name": options.name, "began": began, "seconds": options.seconds, "code": 0})
    if options.verb == "suite":
        return suites(options, command)
    if options.verb == "found":
        return found()
    return {"show": show, "table": table}[options.verb](options.code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

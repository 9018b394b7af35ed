"""Prints how many tests each of tox's environments ran, from the reports that pytest left."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def main() -> None:
    """Print a line for each report below the folder given as argument 1."""
    for report in sorted(Path(sys.argv[1]).glob("*/tmp/junit.xml")):
        suites = ET.parse(report).getroot().iter("testsuite")
        counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        for suite in suites:
            for name in counts:
                counts[name] += int(suite.get(name, "0"))
        failed = counts["failures"] + counts["errors"]
        passed = counts["tests"] - failed - counts["skipped"]
        name = report.parts[-3]
        print(f"{name}: {passed} passed, {failed} failed, {counts['skipped']} skipped")


main()

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run found, for programs: JSON, and the XML of JUnit that continuous integration reads."""

import json
import re
import xml.etree.ElementTree as xml

OUTCOMES = {"ok": "passed", "FAIL": "failed", "skip": "skipped"}


def write_json(path, target, seed, results):
    counts = {word: sum(result.outcome == outcome for result in results) for outcome, word in OUTCOMES.items()}
    with open(path, "w") as file:
        json.dump({"server": target, "seed": seed, **counts, "tests": [
            {"name": result.test.name, "level": result.test.level, "requirement": result.test.text,
             "outcome": OUTCOMES[result.outcome], "message": result.text, "seconds": round(result.seconds, 3)}
            for result in results]}, file, indent=1)
        file.write("\n")


def printable(text):
    """XML has no way to write most control characters."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]", "?", text)


def write_junit(path, target, results):
    top = xml.Element("testsuite", name="reapi", hostname=target, tests=str(len(results)), errors="0",
                      failures=str(sum(result.outcome == "FAIL" for result in results)),
                      skipped=str(sum(result.outcome == "skip" for result in results)),
                      time=f"{sum(result.seconds for result in results):.3f}")
    for result in results:
        area, name = result.test.name.split(".")
        case = xml.SubElement(top, "testcase", classname=f"reapi.{area}", name=name, time=f"{result.seconds:.3f}")
        if result.outcome == "FAIL":
            failure = xml.SubElement(case, "failure", type=result.test.level, message=printable(result.test.text))
            failure.text = printable(result.text)
        elif result.outcome == "skip":
            xml.SubElement(case, "skipped", message=printable(result.text))
    xml.ElementTree(top).write(path, encoding="utf-8", xml_declaration=True)

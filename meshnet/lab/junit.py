"""Outcomes of checks as JUnit XML, which CI systems read: a test suite per lab, a test case per check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from meshnet.lab.checks import CANNOT, Outcome

# What XML 1.0 cannot carry, not even escaped: a command may have printed it.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Graded:
    """A lab's outcomes; `problem` says why there are none, or not all."""

    lab: str
    outcomes: Sequence[Outcome] = ()
    problem: str = ""

    @property
    def could_not_run(self) -> bool:
        """Whether something could not be looked at at all."""
        return bool(self.problem) or any(one.verdict.state == CANNOT for one in self.outcomes)

    @property
    def failed(self) -> int:
        """How many checks did not pass."""
        return sum(not one.passed for one in self.outcomes)


def xml(graded: Sequence[Graded]) -> str:
    """The document. A check that failed is a failure; what could not be run is an error."""
    root = ElementTree.Element("testsuites")
    for lab in graded:
        suite = ElementTree.SubElement(root, "testsuite", name=lab.lab)
        for one in lab.outcomes:
            case = _case(suite, lab.lab, one.check.name, one.seconds)
            if not one.passed:
                kind = "error" if one.verdict.state == CANNOT else "failure"
                _told(case, kind, one.reason, "\n".join(f"{head}: {text}" for head, text in one.told))
        if lab.problem:
            _told(_case(suite, lab.lab, "the lab", 0.0), "error", lab.problem, lab.problem)
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("*/failure"))))
        suite.set("errors", str(len(suite.findall("*/error"))))
        suite.set("time", f"{sum(one.seconds for one in lab.outcomes):.3f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, lab: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=lab, name=_clean(name), time=f"{seconds:.3f}")


def _told(case: ElementTree.Element, kind: str, line: str, text: str) -> None:
    ElementTree.SubElement(case, kind, message=_clean(line)).text = _clean(text)


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)

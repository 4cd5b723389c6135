"""Counts what the shared suites say, prints it, and with `--report FILE` writes it down in Markdown."""

import html
import platform
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
import transformers


MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_pipeline_test",
    "is_training_test",
    "order",
    "torch_compile_test",
)
OUTCOMES = ("passed", "skipped", "failed")
SUBJECTS = {
    "TestViTBackbone": "VTN on ViT",
    "TestResNetBackbone": "VTN on ResNet",
    "TestVTN": "VTN",
    "TestViViT": "ViViT",
}
HEADER = [
    "# transformers' own tests",
    "",
    "transformers tests every model of its library with the same suites. `make conformance` takes them from its",
    "source distribution, runs them on VTN and, for comparison, on ViViT, and writes this page. The FSDP suite is not",
    "among them: it trains an `AutoModelForCausalLM` on text, and no other model. The counts are pytest's: a test",
    "that skips a part of itself has passed; that part is listed below.",
    "",
    f"transformers {transformers.__version__}, torch {torch.__version__}, Python {platform.python_version()}.",
    "",
]


def pytest_addoption(parser):
    parser.addoption("--report", type=Path, help="Markdown file to write the counts and skipped tests to")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: in transformers' shared suites")
    config.pluginmanager.register(Tally(config.getoption("report")))


class Tally:
    """The outcome of every test, by suite (the file) and subject (the class)."""

    def __init__(self, report_path: Path | None):
        self.report_path = report_path
        self.outcomes: dict[str, str] = {}
        self.skip_reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report):
        # A test reports its set-up, itself, its subtests and its tear-down: the worst of them counts, but that a test
        # which skips one of its subtests has passed, as in pytest's own count.
        is_part = isinstance(report, pytest.SubtestReport)
        if not report.passed and not (is_part and report.skipped) or report.when == "call" and not is_part:
            known = self.outcomes.get(report.nodeid, "passed")
            self.outcomes[report.nodeid] = max(known, report.outcome, key=OUTCOMES.index)
        if report.skipped:
            # Reasons quote classes, which Markdown would take for HTML.
            reason = html.escape(report.longrepr[2].removeprefix("Skipped: "), quote=False)
            self.skip_reasons[report.nodeid] = f"{reason} (a part of the test)" if is_part else reason

    def pytest_terminal_summary(self, terminalreporter):
        lines = [*self.table_of_counts(), "", *self.table_of_skips()]
        terminalreporter.section("shared suites of transformers")
        for line in lines:
            terminalreporter.write_line(line)
        if self.report_path is not None:
            self.report_path.write_text("\n".join([*HEADER, *lines]) + "\n", encoding="utf-8")

    def table_of_counts(self) -> list[str]:
        counts = defaultdict(Counter)
        for nodeid, outcome in self.outcomes.items():
            counts[split_nodeid(nodeid)[:2]][outcome] += 1
        lines = ["| suite | of | passed | skipped | failed |", "| --- | --- | ---: | ---: | ---: |"]
        for (suite, subject), count in counts.items():
            lines.append(f"| {suite} | {subject} | " + " | ".join(str(count[outcome]) for outcome in OUTCOMES) + " |")
        return lines

    def table_of_skips(self) -> list[str]:
        """What VTN skips. Its backbones share a line."""
        tests = defaultdict(dict)
        for nodeid, reason in self.skip_reasons.items():
            suite, subject, test = split_nodeid(nodeid)
            if subject != "ViViT":
                tests[suite, reason][f"`{test}`"] = None
        lines = ["| suite | skipped because | tests |", "| --- | --- | --- |"]
        return lines + [f"| {suite} | {reason} | {', '.join(names)} |" for (suite, reason), names in tests.items()]


def split_nodeid(nodeid: str) -> tuple[str, str, str]:
    """`tests/conformance/test_image_processor.py::TestVTN::test_call` to suite, subject and test."""
    path, subject, test = nodeid.split("::", 2)
    return Path(path).stem.removeprefix("test_").replace("_", " "), SUBJECTS[subject], test

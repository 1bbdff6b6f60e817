"""The report: one self-contained HTML page, or a PNG, about a result or any checkpoint."""

from __future__ import annotations

from hf_init._report.report import write_report as write_report

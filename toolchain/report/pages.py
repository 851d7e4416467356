"""The drawn reports of a compile and of a fit."""

from __future__ import annotations

from dataclasses import replace

from sim.profile import profile
from sim.timeline import decode_timeline
from toolchain.report.page import render_report
from toolchain.report.source import PageSource
from toolchain.report.trace import trace_json

PAGE, TRACE = "report/report.html", "report/trace.json"


def report_pages(source: PageSource) -> dict[str, bytes]:
    """Page and trace by bundle path; the source needs a latency report and its timeline."""
    assert source.latency is not None
    return {
        PAGE: render_report(source).encode(),
        TRACE: trace_json(source.latency, source.timeline),
    }


def fit_page(source: PageSource) -> str:
    """The page without a compile: no SNR, and no time when the plan exceeds the target."""
    if not source.fit["fits"]:
        return render_report(source)
    where = (source.program, source.plan, source.target, source.fit["estimate"]["position"])
    return render_report(replace(source, profile=profile(*where), timeline=decode_timeline(*where)))

"""Reports: the figures as JSON values (data.py) and the page that draws them (page.py)."""

from toolchain.fit.report import fit_report
from toolchain.report.data import build_reports

__all__ = ["build_reports", "fit_report"]

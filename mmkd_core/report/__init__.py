"""The report of a run: one HTML file with its figures inside, from ``summary.json`` and the loss curves.

Does not: compute a result, read the workspace, or touch the network. What is shown was measured by the rooms below.
"""

from mmkd_core.report.page import write_report

__all__ = ["write_report"]

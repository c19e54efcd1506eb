"""The retrieval latency test: loads a server, and says for every stage how long it took.

The client measures each retrieval (connect, first byte, total) and verifies its bytes against the
address; the server's own record of the same request id says what index, metadata, disk and network
took of that. What is left is the client's side.
"""

from stat7store.latency.compare import Comparison, compare
from stat7store.latency.report import Report, Run, Summary, read_report, write_report
from stat7store.latency.run import LatencyTest, Plan

__all__ = ["Comparison", "LatencyTest", "Plan", "Report", "Run", "Summary", "compare", "read_report", "write_report"]

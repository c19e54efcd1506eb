"""A benchmark of this store beside other servers of files, on the same files, in one run.

``compare_peers.py`` is the command; docs/decisions/017-comparing-peers.md says how it measures and why.
"""

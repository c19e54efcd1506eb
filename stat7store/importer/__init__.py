"""Bulk import: whole trees of files, into a store's folder or over HTTP.

The order of the steps is the promise: bytes durable, then catalog, then journal, then (if asked for)
the source deleted. Whatever ends an import in between, the next one goes on.
"""

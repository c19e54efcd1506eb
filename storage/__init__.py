"""Blob storage: durable bytes under locations that are never used twice.

This package knows no HTTP and no STAT7; it never imports ``stat7store``.
"""

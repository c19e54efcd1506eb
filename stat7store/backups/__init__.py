"""Backups: a copy of a store, made while it serves, and a store made of such a copy."""

"""Tests of the catalogs: one contract, and what is each one's own."""

"""Tests of the blob backends."""

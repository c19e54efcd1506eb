"""Minimal servers around libraries that have none. They run in the peers' own environment."""

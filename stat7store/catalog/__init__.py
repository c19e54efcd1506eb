"""Catalogs: what is known of every address, and which locations are garbage."""

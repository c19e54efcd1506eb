"""The fault plan: each fault of docs/reliability.md done to the real thing, at a small number or (``--soak``) in full."""

"""The fault plan: each fault of docs/reliability.md done to the real thing, few times or (``--soak``) in full."""

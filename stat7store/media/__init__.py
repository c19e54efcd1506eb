"""What the bytes of a file say about it."""

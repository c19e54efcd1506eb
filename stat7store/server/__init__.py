"""The HTTP server: the only part that imports ``aiohttp.web``."""

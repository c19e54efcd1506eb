"""Real media for tests: the fetched samples, and as many distinct valid copies of them as a test wants."""

from __future__ import annotations

from pathlib import Path

from stat7store.media.copies import distinct_jpeg, distinct_mp4, distinct_png, padded_mp4

__all__ = ["SAMPLES", "distinct_jpeg", "distinct_mp4", "distinct_png", "large_mp4", "sample"]

SAMPLES = Path(__file__).resolve().parent.parent / ".cache" / "samples"


def sample(name: str) -> Path:
    """The fetched photograph or clip of that name. Raises ``FileNotFoundError`` that says how to get it."""
    path = SAMPLES / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `make samples` fetches it")
    return path


def large_mp4(path: Path, size: int, n: int = 0) -> None:
    """Write a valid MP4 of exactly ``size`` bytes to ``path``: bigbuckbunny.mp4, padded; see ``padded_mp4``."""
    with path.open("wb") as file:
        for piece in padded_mp4(sample("bigbuckbunny.mp4").read_bytes(), size, n):
            file.write(piece)

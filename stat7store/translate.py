"""The one boundary at which the errors of blob backends become the store's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stat7store.errors import Damaged, NoSpace, NotFound, Unavailable
from storage.base import BlobDamaged, BlobMissing, BlobNoSpace, BlobUnavailable


@contextmanager
def blob_errors() -> Iterator[None]:
    """Raise the store's error, the backend's as its cause, for a backend's error in the context."""
    try:
        yield
    except BlobMissing as error:
        raise NotFound("the bytes are not where the catalog says") from error
    except BlobDamaged as error:
        raise Damaged("the stored bytes were altered or cut; uploading the file again heals them") from error
    except BlobNoSpace as error:
        raise NoSpace("there is no room left to store this; reading and deleting still work") from error
    except BlobUnavailable as error:
        raise Unavailable(f"the bytes cannot be reached or made durable now: {error}") from error

"""Store a tree in a disk-objectstore container. Arguments: the tree, the container's folder, `pack` or `loose`."""

import os
import sys

from disk_objectstore import Container  # type: ignore[import-not-found]  # only in the peers' own environment
from disk_objectstore.utils import LazyOpener  # type: ignore[import-not-found]

tree, folder, way = sys.argv[1:]
container = Container(folder)
container.init_container(clear=False)
paths = [os.path.join(above, name) for above, _, names in os.walk(tree) for name in names]
if way == "pack":
    container.add_streamed_objects_to_pack([LazyOpener(path) for path in paths], open_streams=True)
else:
    for path in paths:
        with open(path, "rb") as stream:
            container.add_streamed_object(stream)
container.close()

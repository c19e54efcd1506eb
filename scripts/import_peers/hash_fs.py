"""Store a tree in a HashFS folder. Arguments: the tree, the folder."""

import os
import sys

from hashfs import HashFS  # type: ignore[import-not-found]  # only in the peers' own environment

tree, folder = sys.argv[1:]
store = HashFS(folder, depth=2, width=2, algorithm="sha256")
for above, _, names in os.walk(tree):
    for name in names:
        store.put(os.path.join(above, name))

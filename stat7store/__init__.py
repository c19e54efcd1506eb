"""STAT7 Store: images and movies kept by what they are, with every retrieval timed stage by stage."""

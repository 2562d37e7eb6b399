"""The names of the image sets that can be downloaded; alone in a module, so that `--help` loads nothing else."""

# `dermamnist` is the one of 224 px, which a backbone can use; the others have their side in the name.
NAMES = ("ham10000", "isic2018", "isic2019", "dermamnist", "dermamnist_28", "dermamnist_64", "dermamnist_128")

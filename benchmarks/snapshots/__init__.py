"""The snapshot engine beside restic, borg and tar with zstd, on one tree, in one run."""

"""The snapshot engine: a tree on disk to objects in a store and back, every byte checked. No Django, no control plane.

The format is docs/design/snapshot-format.md. What others call:

    take.take       tree → packs, segments, root          restore.restore   root → tree, complete or not at all
    verify.verify   is everything there and readable?     compare.compare   are two trees the same?
    reader          entries and single files of one snapshot, without restoring
    store           the objects: a folder, or S3          remote            how take and restore move bytes
"""

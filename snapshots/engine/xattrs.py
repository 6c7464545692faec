"""User attributes of files and folders, where the platform and the file system have them."""

from __future__ import annotations

import errno
import os

from snapshots.engine.entry import XATTR_NAMESPACE, Xattrs

SUPPORTED = hasattr(os, "listxattr")
_NONE_HERE = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.ENODATA})


def read_xattrs(fd: int) -> Xattrs:
    """The user.* attributes of an open file or folder, by name."""
    if not SUPPORTED:
        return ()
    try:
        listed = os.listxattr(fd)
        if not listed:
            return ()
        names = sorted(os.fsencode(name) for name in listed)
        return tuple((name, os.getxattr(fd, name)) for name in names if name.startswith(XATTR_NAMESPACE))
    except OSError as error:
        if error.errno in _NONE_HERE:
            return ()
        raise


def write_xattrs(fd: int, xattrs: Xattrs) -> None:
    """Raises OSError where the file system cannot hold them."""
    for name, value in xattrs:
        os.setxattr(fd, name, value)

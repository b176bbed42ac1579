"""Homes on an object store: a folder on this machine works, the remote one is what counts.

Stages write and read a local working copy of the home. A finished store is published file by file into
a folder of its own; the PUT of its manifest, last, is the commit. Another machine fetches what it needs
and checks every file against the SHA-256 of the manifest. Nothing here changes a number, so no key
covers this package.
"""

"""The version of this package: below all rooms, so that none imports the package for it."""

__version__ = "0.1.0"

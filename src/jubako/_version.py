"""The one place where the version is written; the build backend and the CLI read it here."""

__version__ = "0.1.0"

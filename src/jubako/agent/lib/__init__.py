"""Modules that programs inside can import; copied into sandboxes, never imported here."""

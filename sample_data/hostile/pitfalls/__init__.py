"""Folders of scans that look ordinary and are not, each with the truth about it."""

"""Placeholder, replaced with the table of contents."""

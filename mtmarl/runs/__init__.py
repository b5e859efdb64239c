"""Runs on disk: what their folders hold, when two are the same, and the policies in them."""

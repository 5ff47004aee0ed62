"""Runs: from a prompt to files."""

"""Faces that live in other programs, and speak to a server: sources that commands pack."""

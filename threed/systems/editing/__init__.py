"""Editing: a picture is changed, what is not meant stays."""

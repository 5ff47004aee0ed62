"""Reading glTF 2.0, as a GLB or as a text with files beside it, whoever wrote it."""

"""Reference: what pictures show, or whose face, without training on them."""

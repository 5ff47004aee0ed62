"""The faces of threed: what people use it through."""

"""Systems that learn a thing with no name from a few pictures, or keep a style over a series."""

"""Systems that put a garment on a person: one file each."""

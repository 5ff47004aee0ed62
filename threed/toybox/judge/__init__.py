"""What says whether a picture shows what it should."""

"""What was learned about things with no name: words, LoRAs, whole nets; on disk and in force."""

"""Losses that pull renders towards a prompt: the Guidance protocol lives here."""

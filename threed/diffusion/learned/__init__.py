"""What a model has learned on top of its weights, as files hold it: words of one's own, LoRAs."""

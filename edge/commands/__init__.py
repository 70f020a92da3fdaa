"""Commands of `dlm-edge` that are more than a few lines: flags in, text out."""

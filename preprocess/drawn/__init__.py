"""The drawn sample corpus."""

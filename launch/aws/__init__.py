"""What happens on the caller's side: checks, uploads, the instance's life, and watching it."""

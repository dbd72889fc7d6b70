"""What happens on the caller's side: checks, uploads, the instances' lives, and watching them."""

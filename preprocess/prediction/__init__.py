"""What a trained model says of raw clips."""

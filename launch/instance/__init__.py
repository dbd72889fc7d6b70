"""What happens on an instance: installing, training, saving to S3, ending itself."""

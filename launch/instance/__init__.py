"""What happens on the instance: installing, training, saving to S3, ending itself."""

"""What a data set is, where it is, and which of its clips are chosen. Needs no TensorFlow."""

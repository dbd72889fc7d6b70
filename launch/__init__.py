"""Run this project's commands on EC2.

Imports no other part of the project and no TensorFlow: on an instance it runs before they are
installed, and where it only starts others it stays small and quick.
"""

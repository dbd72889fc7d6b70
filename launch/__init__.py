"""Runs this project's commands on a bigger machine. Imports no other part of the project."""

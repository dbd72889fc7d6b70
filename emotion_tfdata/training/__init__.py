"""The parts that `train.py` composes: settings, the loop, checkpoints, metrics and reports.

Extra `[train]`. What is not TensorFlow or numpy is imported where it is used.
"""

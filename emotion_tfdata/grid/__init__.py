"""Many trainings: folds, seeds and systems, side by side on one machine or on a Ray cluster.

`job` is one training and what its folder says of it, `worker` what a process does with one, `local`
and `on_ray` hand them to processes, `run` sees a whole grid through and tells how it goes.
`ablation` compares systems. What only hands out work imports no TensorFlow.
"""

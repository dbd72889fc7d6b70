"""Trains systems against each other, by folds, seeds and protocols, and says what it came to.

`plan` says what is to be trained, `training` what lies in each training's folder, `pool` runs
them, `progress` tells how it goes; `intervals` and `summary` make the figures, `content` says them,
and `markdown`, `page` and `plot` write that down. Trainings are commands; nothing of the rest of
the project is imported.
"""

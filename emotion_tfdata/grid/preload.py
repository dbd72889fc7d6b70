"""What the processes of `local` have in common: imported once, before they are forked."""

from emotion_tfdata.training import command

command.before_tensorflow()

from emotion_tfdata.training import export, fit, report, run  # noqa: E402, F401

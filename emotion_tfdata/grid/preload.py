"""What the processes of `local` have in common: imported once, before they are forked."""

import gc

from emotion_tfdata.training import command

command.import_tensorflow()

from emotion_tfdata.training import export, fit, report, run  # noqa: E402, F401

gc.freeze()  # nobody's collections look through all that was imported

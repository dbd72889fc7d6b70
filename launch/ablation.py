"""Says where the ablation went."""

import sys

if __name__ == "__main__":
    sys.exit("launch.ablation is now: python -m emotion_tfdata.grid.ablation, with the same flags")

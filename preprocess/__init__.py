"""From the corpora's files to data sets. Needs the extra `[preprocess]`."""

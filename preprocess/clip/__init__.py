"""From one clip's file to its arrays on one clock."""

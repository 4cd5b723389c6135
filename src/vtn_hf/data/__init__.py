"""Data sets, augmentation and caching; nothing here travels with a checkpoint."""

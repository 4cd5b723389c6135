"""Parts of filmed_videos.py: collections of filmed videos, what is trained on them, and the tables."""

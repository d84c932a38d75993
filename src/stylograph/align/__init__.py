"""Where the face of a picture is, cutting it out as a generator expects it, and pasting it back."""

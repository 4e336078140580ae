"""What a data set holds: images, classes, a fingerprint, and what was left out of it."""

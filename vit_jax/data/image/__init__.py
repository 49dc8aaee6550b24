"""Images: folders, transforms, and the encoder of images."""

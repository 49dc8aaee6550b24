"""Images: folders, transforms, preprocessing."""

"""Data: everything between files on disk and a batch on its way to the devices.

Read in this order: `source` (random access to the examples of a split), `image.transforms` (from a stored image to a
model's input), `pipeline` (batches that depend only on the seed and the step), and `modality` (what the rest of the
code asks of images, clips and text). `image`, `video` and `text` hold what is specific to a modality, `sets` particular
data sets; `splits` and `scan` are shared. Nothing here imports TensorFlow, and only the modalities import JAX.
"""

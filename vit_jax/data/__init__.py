"""What comes in: everything between a file on disk and a batch on its way to the device.

Read in this order: `sources` (images and labels by index), `transforms` (from a stored image to the model's input),
`pipeline` (batches that depend on the seed and the step alone). `builders` and `prepare` put data sets on disk.
Nothing here imports JAX or TensorFlow, nor anything of this package but `vit_jax.errors`.
"""

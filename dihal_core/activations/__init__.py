"""Hidden states on disk: one forward pass, a Zarr v3 group, exact resume, a torch-free reader."""

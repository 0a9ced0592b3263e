"""Other architectures, one self-contained file each."""

"""What the module UGMCLAssist does, apart from its widgets, in the Python of 3D Slicer (3.9 and later)."""

"""Two data paths behind one interface: a plan goes in, kernel state comes out, and can be read back."""

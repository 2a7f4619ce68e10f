"""What the federation has agreed to do, as pure functions: no file, network, clock or Keras."""

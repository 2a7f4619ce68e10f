"""The moving half of fedssh: everything that carries a model from one room to another."""

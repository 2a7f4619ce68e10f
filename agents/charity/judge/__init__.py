"""The judge: a process of its own that scores, mixes, combines and tries models; only here Charity has Keras."""

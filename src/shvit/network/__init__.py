"""The network as configuration and arrays: what it is made of and what it computes, without PyTorch."""

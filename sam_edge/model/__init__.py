"""The SAM family in PyTorch: encoders, one prompt encoder, one transformer, one mask decoder (extra `torch`)."""

"""Networks (nn.Module, nothing else) and their weights."""

"""What the tests share, imported as `support.xyz`."""

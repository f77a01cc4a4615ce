"""What clients send and expect: one module per dialect, pure functions between bodies and requests."""

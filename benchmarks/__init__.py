"""What streams, sends and reads cost, beside a floor and beside peers: see docs/performance.md."""

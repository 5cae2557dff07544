"""The page: a local server for it, and what it must know of the contract. The page itself is built from `web/`."""

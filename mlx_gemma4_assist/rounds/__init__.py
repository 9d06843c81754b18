"""Pure functions of arrays: draft, verify, accept, advance."""

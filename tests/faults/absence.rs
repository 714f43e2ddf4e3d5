//! R05, R23: the operator is away, or its objects come back.

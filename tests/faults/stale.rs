//! R03, R04, R07: the operator sees what is no longer so.

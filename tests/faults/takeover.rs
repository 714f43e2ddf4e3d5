//! R06: two operators, and the first one is only asleep.

//! Tracing annotations that expand to nothing unless the `instrument` feature is on.

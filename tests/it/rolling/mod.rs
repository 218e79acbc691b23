//! Replicas that are replaced one after another, as an update does it, and nobody who uses them notices.
//!
//! [`draining`] has what a single server promises when it is told to stop; [`traffic`] changes replicas behind a real nginx.

mod draining;

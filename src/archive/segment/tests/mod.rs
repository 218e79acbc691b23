//! Segments held to a model: what was written, in plain vectors.

mod model;
mod pages;

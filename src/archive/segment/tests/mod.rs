//! Segments held to a model: what was written, in plain vectors.

mod copies;
mod damage;
mod golden;
mod layout;
mod model;
mod pages;
mod requests;
mod whole;

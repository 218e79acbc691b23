use crate::{machine::Machine, results::Results};
pub fn draw(_results: &Results, _machine: &Machine) -> String { String::new() }

//! The solver's worker and one build session around it.

mod describe;
mod files;
mod native;
mod trust;

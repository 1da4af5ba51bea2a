//! What is said about a result: which packages are in it, and what it was made of. Both are read from what a build leaves
//! behind anyway: trees, blobs, keys and their preimages.

mod inventory;
mod provenance;
#[cfg(test)]
mod tests;

pub use inventory::locked_packages;
pub use provenance::ProvenanceOptions;

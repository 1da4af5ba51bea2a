//! What is said about an image: which packages are in it (an SBOM), and how it came to be (provenance).
//!
//! - [`Inventory`]: packages, each with its purl, license, checksums and places. [`apk`], [`dpkg`], [`rpm`] and [`npm`] read
//!   them from the bytes of package databases, manifests and lockfiles.
//! - [`Inventory::spdx`] and [`Inventory::cyclonedx`]: an inventory as SPDX 2.3 and as CycloneDX 1.6.
//! - [`Provenance`]: SLSA v1.
//! - [`statement`]: any of these as an in-toto statement about subjects.
//! - [`without_passwords`]: what no document may repeat.
//!
//! A crate of its own because it speaks four published formats that nothing else here knows, and reads databases that
//! strangers wrote, by which it can be tested alone.
//!
//! Pure, and deterministic: no clock (the caller says what time it is), everything sorted, and names that have to be unique
//! (SPDX namespaces, CycloneDX serial numbers) come from the content. Whatever is in a database, nothing here fails or
//! panics: what makes no sense is left out.

pub mod apk;
mod cyclonedx;
mod document;
pub mod dpkg;
mod inventory;
mod license;
pub mod npm;
mod os_release;
mod provenance;
mod purl;
mod redact;
pub mod rpm;
mod spdx;
mod sqlite;
mod statement;

pub use document::{About, SbomFormat};
pub use inventory::{Algorithm, Checksum, Ecosystem, Inventory, Package, Presence};
pub use os_release::OsRelease;
pub use provenance::{Dependency, Mode, PROVENANCE_TYPE, Provenance, StepKey};
pub use purl::{docker_purl, purl};
pub use redact::{REDACTED, without_passwords};
pub use statement::{Subject, statement};

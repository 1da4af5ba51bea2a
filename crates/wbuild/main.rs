//! `wbuild`: builds OCI images from pnpm workspaces and Dockerfiles, without a daemon and without root.
fn main() {}

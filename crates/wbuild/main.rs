//! `wbuild`: builds OCI images from pnpm workspaces and Dockerfiles, without a daemon and without root.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a helper inside of a step's namespaces is this same program, with one thread (`wbuild-executor`).
    wbuild_executor::init(&wbuild_engine::handlers());
    wbuild_cli::main()
}

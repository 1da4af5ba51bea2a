//! Dockerfiles, exactly as `docker build` understands them (BuildKit's frontend, `moby/buildkit`).
//!
//! The way of a file, each step a pure function of the one before:
//!
//! 1. [`Source::decode`] makes text of bytes.
//! 2. [`parse`] makes a [`Dockerfile`] of text: typed instructions with the place of every word. It reports all mistakes
//!    that do not follow from each other, and reads on.
//! 3. [`GlobalScope`] evaluates ARGs before the first FROM, and FROM lines; [`StageGraph`] knows which stages need which.
//! 4. [`StageScope`] walks the instructions of a stage and turns each into a [`Step`] in which nothing is left to expand.
//!    Mistakes that `docker build` finds only in stages that it builds are found here.
//! 5. [`lint`] checks what is allowed but unwise.
//!
//! Nothing here reads a file, asks for the time, or runs anything. Nothing recurses without a limit, and no file, however
//! hostile, makes any of this slow: lines, values, stages and the work of expansion are all bounded.
//!
//! What differs from BuildKit on purpose: a heredoc marker in a JSON array is a path; ids beyond 2³¹-1 are refused; a flag
//! with characters beyond ASCII keeps them; EXPOSE words with `${x:-…}` keep what stands before it; a mistake in an ONBUILD
//! trigger is a warning where it is written.

mod ast;
mod directive;
pub mod expand;
mod heredoc;
mod json;
mod line;
pub mod lint;
mod outline;
mod parse;
mod problem;
mod scope;
mod source;
mod split;
mod stages;
mod statement;
mod suggest;
mod values;

pub use ast::{
    Add, ArgItem, CommandLine, Copy, Device, Dockerfile, Healthcheck, Instruction, Kind, LineRange, Network,
    Onbuild, Run, Script, Security, Stage, Transfer,
};
pub use directive::{Directives, Syntax};
pub use heredoc::Heredoc;
pub use outline::{Outline, OutlineArg, OutlineMount, outline};
pub use parse::{Parsed, parse, parse_trigger};
pub use scope::{
    Applied, BaseFacts, CONTROL_ARGS, Command, DEFAULT_PATH, Env, Epoch, FromLine, GlobalScope, InlineFile,
    MAX_STAGE_BYTES, Mount, MountKind, Ownership, PLATFORM_ARGS, PROXY_ARGS, Proxies, RunStep, Settings,
    Sharing, StageScope, Step, TransferSource, TransferStep, Undefined, created_by, epoch_source,
};
pub use source::{LineIndex, MAX_DOCKERFILE_BYTES, MAX_LINE_BYTES, Source, Word};
pub use stages::{Base, FromRef, StageGraph};
pub use statement::Pair;
pub use values::{
    Chmod, ChmodError, GitSource, HttpSource, Identity, Owner, OwnerError, Port, PortError, PortSpec,
    Protocol, Remote, RemoteError, SymbolicMode,
};

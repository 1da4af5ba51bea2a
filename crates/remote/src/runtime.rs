use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

/// Sockets and child processes of all callers are served here. Made when it is first needed, and never dropped: that
/// could not be done from everywhere.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("wbuild-remote")
            .enable_all()
            .build()
            .expect(
                "a runtime needs threads and an epoll descriptor, without which nothing else works either",
            )
    })
}

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

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

/// Waits for `future` on this thread. That may be one on which a runtime of the caller's drives its tasks, such as where a
/// description turns out to need something from a remote cache: that runtime then goes on elsewhere.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let drives_tasks =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    match drives_tasks {
        true => tokio::task::block_in_place(|| runtime().block_on(future)),
        false => runtime().block_on(future),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_another_runtime_may_wait() {
        let other = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let task = other.spawn(async { block_on(async { 1 }) + block_on(async { 2 }) });
        assert_eq!(other.block_on(task).unwrap(), 3);
        assert_eq!(other.block_on(other.spawn_blocking(|| block_on(async { 4 }))).unwrap(), 4);
        assert_eq!(block_on(async { 5 }), 5);
    }
}

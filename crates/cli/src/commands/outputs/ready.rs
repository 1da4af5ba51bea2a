//! Whether what is built can go where it is to go, found out while the first step runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use wbuild_engine::{Engine, EngineError};
use wbuild_load::{Machine, choose_engine, choose_store, reach};
use wbuild_registry::Repository;
use wbuild_remote::{Retry, Stop, Watch};
use wbuild_solver::{Cancellation, Subscription};

use super::deliver::{Delivery, DeliveryError};
use super::push::client;
use super::{ImageOutput, ImagePlace, Output};

type Check = Box<dyn FnOnce(&Watch<'_>) -> Result<(), DeliveryError> + Send>;

/// Asks those that outputs go to whether they take them. Where nothing has to run, nobody is asked but by the output itself.
pub(crate) struct Ready {
    engine: Arc<Engine>,
    /// Why there is no point in going on.
    wrong: Arc<Mutex<Option<DeliveryError>>>,
    stop: Stop,
    /// Ends the build, too, when there is none.
    cancellation: Cancellation,
    _subscription: Subscription,
}

impl Ready {
    /// Says at once what is missing on this machine; the others are asked when something runs.
    ///
    /// # Errors
    /// When an output has nobody to go to.
    pub(crate) fn begin(engine: &Arc<Engine>, delivery: &Delivery<'_>) -> Result<Self, DeliveryError> {
        let checks = checks(delivery)?;
        let (cancellation, stop) = (Cancellation::new(), Stop::new());
        let (ending, stopping) = (cancellation.clone(), stop.clone());
        let subscription = delivery.cancellation.subscribe(move || {
            stopping.stop();
            ending.cancel();
        });
        let wrong = Arc::default();
        if !checks.is_empty() {
            let (wrong, stop, cancellation) = (Arc::clone(&wrong), stop.clone(), cancellation.clone());
            engine.when_something_runs(move || {
                for check in checks {
                    let (wrong, stop, cancellation) =
                        (Arc::clone(&wrong), stop.clone(), cancellation.clone());
                    std::thread::spawn(move || find_out(check, &stop, &wrong, &cancellation));
                }
            });
        }
        Ok(Self { engine: Arc::clone(engine), wrong, stop, cancellation, _subscription: subscription })
    }

    /// What ends the build.
    pub(crate) fn cancellation(&self) -> Cancellation {
        self.cancellation.clone()
    }

    /// Why the build was ended, if it was for this.
    pub(crate) fn wrong(&self) -> Option<DeliveryError> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Everything was built: the outputs themselves say what is wrong with them.
    pub(crate) fn end(&self) {
        self.engine.whatever_runs();
        self.stop.stop();
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.end();
    }
}

fn find_out(check: Check, stop: &Stop, wrong: &Mutex<Option<DeliveryError>>, cancellation: &Cancellation) {
    let retrying = |_: &Retry| {};
    let Err(error) = check(&Watch { stop, retrying: &retrying }) else { return };
    if !stop.is_stopped() {
        wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        cancellation.cancel();
    }
}

fn checks(delivery: &Delivery<'_>) -> Result<Vec<Check>, DeliveryError> {
    let mut checks: Vec<Check> = Vec::new();
    let machine = Machine { variable: delivery.variable };
    for output in &delivery.outputs.list {
        let Output::Image(image @ ImageOutput { place, .. }) = output else { continue };
        match place {
            ImagePlace::Registry(how) => {
                let names = delivery.outputs.names_of(image);
                let client = client(delivery, *how, &names)?;
                let repositories: BTreeSet<Repository> = names.iter().map(Repository::of).collect();
                for repository in repositories {
                    let client = Arc::clone(&client);
                    checks.push(Box::new(move |watch| {
                        Ok(client.check_push(&repository, watch).map_err(EngineError::from)?)
                    }));
                }
            }
            ImagePlace::Docker { context } => {
                let engine = choose_engine(context.as_deref(), &machine)?;
                checks.push(Box::new(move |_| Ok(reach(&engine)?)));
            }
            ImagePlace::Store => drop(choose_store(&machine)?),
            _ => {}
        }
    }
    Ok(checks)
}

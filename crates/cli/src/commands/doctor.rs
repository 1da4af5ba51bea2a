//! `wbuild doctor`: what this machine allows, and the exact remedy where it allows too little.

use wbuild_engine::Engine;
use wbuild_executor::{Identity, Isolation, Machine};

use super::{Failure, Session, print};
use crate::args::DoctorArgs;

pub(crate) fn run(args: &DoctorArgs, session: &Session) -> Result<(), Failure> {
    let home = session.home(args.home.home.as_ref())?;
    let engine = Engine::open(session.plain_options(args.home.home.as_ref())?, &session.variable)?;
    let machine = Machine::probe(&home).map_err(Failure::new)?;
    let mut text = format!(
        "kernel      {}\nuser        {}\nstate       {}\n",
        machine.kernel,
        machine.uid,
        home.display()
    );
    for attempt in &machine.attempts {
        let name = name(&attempt.isolation);
        match &attempt.refusal {
            None => text.push_str(&format!("isolation   {name}\n")),
            Some(refusal) => {
                text.push_str(&format!(
                    "refused     {name}: {}\n            {}\n",
                    refusal.reason, refusal.remedy
                ));
            }
        }
    }
    text.push_str("network     steps use the host's network, unless they ask for none\n");
    let fence = match machine.landlock {
        Some(version) if version >= 6 => "abstract sockets of the host are fenced off".to_owned(),
        Some(version) => format!("version {version}: abstract sockets of the host can be reached by steps"),
        None => "not available: abstract sockets of the host can be reached by steps".to_owned(),
    };
    text.push_str(&format!("landlock    {fence}\n"));
    text.push_str(&format!("ca bundle   {}\n", engine.trust_in_words()));
    text.push_str("records     trusted as far as write access to the state directory is\n");
    let signed = (session.variable)("WBUILD_CACHE_SIGNATURE_KEY").is_some_and(|key| !key.is_empty());
    text.push_str(match signed {
        true => "caches      only records that are signed with WBUILD_CACHE_SIGNATURE_KEY are used\n",
        false => {
            "caches      whoever can write to one is trusted by those who read it, unless WBUILD_CACHE_SIGNATURE_KEY is set\n"
        }
    });
    print(&text)?;
    match machine.isolation() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(error)),
    }
}

fn name(isolation: &Isolation) -> &'static str {
    match isolation.identity() {
        Identity::Root => "overlay, as root",
        Identity::SingleId => "overlay, in a user namespace with one id (owners are recorded)",
    }
}

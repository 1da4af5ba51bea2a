use std::collections::HashMap;

use rustix::io::Errno;

use crate::capability::CapabilitySet;
use crate::step::Step;

/// The ids that a process believes to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Ids,
    pub(crate) group: Ids,
    pub(crate) groups: Vec<u32>,
}

/// Real, effective, saved and file system id, of users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) real: u32,
    pub(crate) effective: u32,
    pub(crate) saved: u32,
    pub(crate) file_system: u32,
}

/// In the arguments of these calls: leave it as it is.
const UNCHANGED: u32 = u32::MAX;

impl Ids {
    pub(crate) fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, file_system: id }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2), setgid(2).
    pub(crate) fn set(&mut self, id: u32, privileged: bool) -> Result<(), Errno> {
        if id == UNCHANGED {
            return Err(Errno::INVAL);
        }
        if privileged {
            *self = Self::all(id);
        } else if id == self.real || id == self.saved {
            (self.effective, self.file_system) = (id, id);
        } else {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// setreuid(2), setregid(2).
    pub(crate) fn set_re(&mut self, real: u32, effective: u32, privileged: bool) -> Result<(), Errno> {
        let may_be_real = [UNCHANGED, self.real, self.effective].contains(&real);
        if !privileged && !(may_be_real && (effective == UNCHANGED || self.has(effective))) {
            return Err(Errno::PERM);
        }
        let before = *self;
        if real != UNCHANGED {
            self.real = real;
        }
        if effective != UNCHANGED {
            self.effective = effective;
        }
        if real != UNCHANGED || (effective != UNCHANGED && effective != before.real) {
            self.saved = self.effective;
        }
        self.file_system = self.effective;
        Ok(())
    }

    /// setresuid(2), setresgid(2).
    pub(crate) fn set_res(&mut self, new: [u32; 3], privileged: bool) -> Result<(), Errno> {
        if !privileged && new.iter().any(|id| *id != UNCHANGED && !self.has(*id)) {
            return Err(Errno::PERM);
        }
        for (id, new) in [&mut self.real, &mut self.effective, &mut self.saved].into_iter().zip(new) {
            if new != UNCHANGED {
                *id = new;
            }
        }
        self.file_system = self.effective;
        Ok(())
    }

    /// setfsuid(2), setfsgid(2): returns what it was, whether or not it changes.
    pub(crate) fn set_file_system(&mut self, id: u32, privileged: bool) -> u32 {
        let before = self.file_system;
        if id != UNCHANGED && (privileged || id == before || self.has(id)) {
            self.file_system = id;
        }
        before
    }
}

impl Credentials {
    pub(crate) fn of(step: &Step) -> Self {
        let user = &step.user;
        Self { user: Ids::all(user.uid), group: Ids::all(user.gid), groups: user.groups.clone() }
    }

    /// Whether `capability`, one of those that `allowed` may hold, is in effect: root has them, others do not.
    pub(crate) fn may(&self, capability: rustix::thread::CapabilitySet, allowed: CapabilitySet) -> bool {
        self.user.effective == 0 && allowed.kernel().contains(capability)
    }

    pub(crate) fn in_group(&self, gid: u32) -> bool {
        self.group.file_system == gid || self.groups.contains(&gid)
    }
}

/// A process, told apart from a later one with the same number by when it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) started: u64,
}

/// What processes believe to be. Only those that ever changed it, and their children that were seen, are kept.
#[derive(Debug)]
pub(crate) struct Beliefs {
    first: Credentials,
    changed: HashMap<u32, (Process, Credentials)>,
}

impl Beliefs {
    pub(crate) fn new(first: Credentials) -> Self {
        Self { first, changed: HashMap::new() }
    }

    /// Whether nobody ever changed anything, so that everybody is who the step is.
    pub(crate) fn are_all_alike(&self) -> bool {
        self.changed.is_empty()
    }

    pub(crate) fn first(&self) -> &Credentials {
        &self.first
    }

    /// What `process` believes, which it has from its parent unless it changed it itself.
    pub(crate) fn of(&mut self, process: Process, parent: Option<Process>) -> Credentials {
        if let Some(known) = self.known(process) {
            return known.clone();
        }
        match parent.and_then(|parent| self.known(parent)).cloned() {
            // Kept, because the parent may change or end before this process asks again.
            Some(inherited) => {
                self.set(process, inherited.clone());
                inherited
            }
            None => self.first.clone(),
        }
    }

    pub(crate) fn set(&mut self, process: Process, credentials: Credentials) {
        self.changed.insert(process.id, (process, credentials));
    }

    fn known(&self, process: Process) -> Option<&Credentials> {
        self.changed
            .get(&process.id)
            .filter(|(known, _)| *known == process)
            .map(|(_, credentials)| credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, file_system: effective }
    }

    #[test]
    fn root_becomes_anybody_and_nobody_becomes_root() {
        let mut user = Ids::all(0);
        user.set(1000, true).unwrap();
        assert_eq!(user, Ids::all(1000));
        assert_eq!(user.set(0, false), Err(Errno::PERM));
        assert_eq!(user.set_re(UNCHANGED, 0, false), Err(Errno::PERM));
        assert_eq!(user.set_res([0, UNCHANGED, UNCHANGED], false), Err(Errno::PERM));
        assert_eq!(user.set(1000, false), Ok(()));
    }

    #[test]
    fn privileges_can_be_given_up_for_a_while() {
        let mut user = Ids::all(0);
        user.set_res([UNCHANGED, 1000, UNCHANGED], true).unwrap();
        assert_eq!(user, ids(0, 1000, 0));
        user.set_re(UNCHANGED, 0, false).unwrap();
        assert_eq!(user, ids(0, 0, 0));
        user.set_re(UNCHANGED, 1000, true).unwrap();
        assert_eq!(user, ids(0, 1000, 1000));
        user.set(0, false).unwrap();
        assert_eq!(user, ids(0, 0, 1000));
    }

    #[test]
    fn file_system_ids_tell_what_they_were() {
        let mut user = Ids::all(0);
        assert_eq!(user.set_file_system(5, true), 0);
        assert_eq!(user.set_file_system(UNCHANGED, true), 5);
        assert_eq!(user.set_file_system(7, false), 5);
        assert_eq!(user.file_system, 5);
    }

    #[test]
    fn children_inherit_and_numbers_are_used_again() {
        let process = |id, started| Process { id, started };
        let first = Credentials { user: Ids::all(0), group: Ids::all(0), groups: vec![] };
        let other = Credentials { user: Ids::all(9), ..first.clone() };
        let mut beliefs = Beliefs::new(first.clone());
        beliefs.set(process(10, 1), other.clone());
        assert_eq!(beliefs.of(process(11, 2), Some(process(10, 1))), other);
        assert_eq!(beliefs.of(process(12, 3), Some(process(11, 2))), other);
        assert_eq!(beliefs.of(process(10, 99), None), first);
        assert_eq!(beliefs.of(process(13, 4), Some(process(10, 99))), first);
    }
}

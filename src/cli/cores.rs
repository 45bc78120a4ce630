//! Cores: the memory of the program holds tokens, so a crash writes it nowhere, and nobody but root looks
//! into it.

#[cfg(unix)]
use rustix::process::{Resource, Rlimit, setrlimit};

/// From now on. What cannot be forbidden is as the system has it.
pub(super) fn forbid() {
    #[cfg(unix)]
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // A pipe as core pattern does not ask for the limit.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

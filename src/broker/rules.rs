//! What follows from what: decisions about grants and providers, as pure functions of state, event and
//! time. No task, no store and no clock is named here.

pub mod evidence;
pub mod pause;

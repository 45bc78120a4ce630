//! What is found of a store when it is examined: what an operator should know, or mend.

use std::fmt;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in one word that stays.
    pub check: &'static str,
    /// How bad it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
}

/// How bad a finding is; the worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// It cannot be seen from here.
    Unseen,
    /// It works, and costs something when something else fails.
    Risk,
    /// Nothing can be done with it now; it may pass.
    Waits,
    /// Somebody has to mend it.
    Wrong,
}

impl Grade {
    /// Its name, for tables and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Unseen => "unknown",
            Self::Risk => "risk",
            Self::Waits => "waits",
            Self::Wrong => "wrong",
        }
    }
}

impl Finding {
    /// It is as it should be.
    pub fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fine, found: found.into(), remedy: String::new() }
    }

    /// It is not, or cannot be seen.
    pub fn new(
        check: &'static str,
        grade: Grade,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, grade, found: found.into(), remedy: remedy.into() }
    }
}

/// One sentence: what was found, and what to do.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

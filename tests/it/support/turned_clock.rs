//! The wall clock of one process, set ahead or back while it runs; the machine's stays.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct TurnedClock {
    ahead: PathBuf,
    library: PathBuf,
}

impl TurnedClock {
    /// One that is right.
    pub(crate) fn new(dir: &Path) -> Self {
        let (ahead, library) = (dir.join("ahead"), dir.join("turned_clock.so"));
        std::fs::write(&ahead, 0_i64.to_ne_bytes()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/turned_clock.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]).arg("-ldl");
        assert!(compile.status().unwrap().success(), "the C compiler that Rust links with");
        Self { ahead, library }
    }

    /// What a program is started with that goes by it.
    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("TURNED_CLOCK", self.ahead.to_str().unwrap()),
        ]
    }

    /// Sets it; 0 sets it right.
    pub(crate) fn turn(&self, seconds: i64) {
        let file = OpenOptions::new().write(true).open(&self.ahead).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

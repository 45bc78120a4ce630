//! `token-broker keys`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::cli::{Failure, out};
use crate::store::Keyring;

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key ring with one random key. Never overwrites.
    Generate {
        /// Where to write it, readable by its owner only.
        #[arg(long, value_name = "PATH")]
        file: PathBuf,
    },
}

impl Keys {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Generate { file } = self;
        let ring = Keyring::generate();
        ring.create(&file).map_err(|error| error.to_string())?;
        out::note(format_args!(
            "made a key ring with key {} in {}\nkeep it: without it the store cannot be opened",
            ring.active(),
            file.display()
        ));
        Ok(())
    }
}

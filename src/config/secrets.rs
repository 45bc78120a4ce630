//! Secrets that are written to files of their own.

use std::path::Path;

use crate::secret::ClientSecret;
use crate::textfile;

/// Longest client secret.
const SECRET_LEN_MAX: u64 = 64 * 1024;

/// Reads a secret from its file; one trailing newline is ignored.
pub(super) fn secret(path: &Path) -> Result<ClientSecret, String> {
    let shown = path.display();
    let text = textfile::read(path, SECRET_LEN_MAX)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(ClientSecret::new(text))
}

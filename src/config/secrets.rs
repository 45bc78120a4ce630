//! Secrets that are written to files of their own.

use std::path::Path;

use crate::secret::ClientSecret;
use crate::textfile;

/// Longest client secret.
const SECRET_LEN_MAX: u64 = 64 * 1024;

/// Reads a client secret from its file, and another one where it has two lines: while one takes the place
/// of the other, either may be the one that the provider takes.
pub(super) fn client_secrets(path: &Path) -> Result<(ClientSecret, Option<ClientSecret>), String> {
    let text = secret(path)?;
    let mut lines = text.expose().lines().filter(|line| !line.is_empty());
    let shown = path.display();
    let first = lines.next().ok_or_else(|| format!("{shown} is empty"))?;
    let second = lines.next();
    if lines.next().is_some() {
        return Err(format!("{shown} has more than two lines: the secret, and the one before it"));
    }
    Ok((ClientSecret::new(first), second.map(ClientSecret::new)))
}

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

//! Files that people write: configuration, key rings, secrets. What is none is refused, and not
//! waited for.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

use zeroize::Zeroizing;

/// Reads a regular file of at most `most` bytes of UTF-8; links to one are followed. A folder, a
/// device, a pipe, and what is longer or no text are errors. Wiped when dropped, as it may be secret.
pub fn read(path: &Path, most: u64) -> Result<Zeroizing<String>> {
    let refused = |why: String| Err(Error::new(ErrorKind::InvalidInput, why));
    // Before it is opened: opening a pipe waits for whoever writes to it.
    if !path.metadata()?.is_file() {
        return refused("it is no regular file".to_owned());
    }
    let mut text = Zeroizing::new(String::new());
    match File::open(path)?.take(most + 1).read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            refused("it is not UTF-8".to_owned())
        }
        Err(error) => Err(error),
        Ok(read) if read as u64 > most => refused(format!("it is longer than {most} bytes")),
        Ok(_) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_small_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let why = |path: &Path| read(path, 4).unwrap_err().to_string();
        assert!(why(dir.path()).contains("no regular file"));
        assert!(why(Path::new("/dev/zero")).contains("no regular file"));
        std::fs::write(&path, b"12345").unwrap();
        assert!(why(&path).contains("longer than 4 bytes"));
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(why(&path).contains("not UTF-8"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::write(&path, b"1234").unwrap();
        assert_eq!(read(&link, 4).unwrap().as_str(), "1234");
    }
}

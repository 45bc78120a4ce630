//! What stands before a server whose port is not known yet: it sees each refresh token that goes by,
//! and can lose an answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Longest head and form of a request.
const REQUEST_MAX: usize = 64 * 1024;

#[derive(Clone, Default)]
pub(crate) struct Front(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Refresh tokens, in the order in which they came.
    presented: Vec<String>,
    /// The answer to the next one is lost.
    loses: bool,
    /// Port of the server.
    behind: u16,
}

impl Front {
    /// Stands before what will be there; gives its address.
    pub(crate) async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = self.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let front = front.clone();
                tokio::spawn(async move { front.pass(client).await });
            }
        });
        address
    }

    /// From now on this port is behind it.
    pub(crate) fn leads_to(&self, port: u16) {
        self.0.lock().unwrap().behind = port;
    }

    pub(crate) fn lose_next(&self) {
        self.0.lock().unwrap().loses = true;
    }

    pub(crate) fn presented(&self) -> Vec<String> {
        self.0.lock().unwrap().presented.clone()
    }

    async fn pass(&self, mut client: TcpStream) -> Option<()> {
        let request = read(&mut client).await?;
        let behind = self.0.lock().unwrap().behind;
        let mut server = TcpStream::connect(("127.0.0.1", behind)).await.ok()?;
        let lost = self.note(&request);
        server.write_all(&request).await.ok()?;
        if lost {
            // It is processed, and the answer gets no further.
            server.readable().await.ok()?;
            return None;
        }
        copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
    }

    /// Whether the answer is to be lost.
    fn note(&self, request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let form: HashMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let Some(token) = form.get("refresh_token") else { return false };
        let mut seen = self.0.lock().unwrap();
        seen.presented.push(token.clone());
        std::mem::take(&mut seen.loses)
    }
}

/// A head, and a body of the length that it names.
async fn read(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let mut chunk = [0; 8192];
        let read = client.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length:").nth(1).map_or("0", str::trim_start);
            let length: usize = length.split("\r\n").next()?.trim().parse().ok()?;
            if body.len() >= length {
                return Some(request);
            }
        }
        if request.len() > REQUEST_MAX {
            return None;
        }
    }
}

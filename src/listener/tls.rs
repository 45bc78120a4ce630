//! TLS of a port: our certificate, and whom the certificates of clients name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::caller::{Caller, Certificate};
use crate::textfile;

/// Longest file of certificates or keys.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// gRPC is HTTP/2, and nothing else.
const HTTP2: &[u8] = b"h2";

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, and those between it and whom clients trust.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs certificates of clients; `None`: they are not asked for any.
    pub client_ca: Option<PathBuf>,
}

/// Why the files cannot be used. Never says what stands in them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TlsError(String);

/// What connections are accepted with; new ones with the newest.
pub struct Tls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// When our certificate ends, in seconds since 1970.
    ends: AtomicI64,
}

type Texts = Vec<Zeroizing<String>>;

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// The file of our private key.
    pub fn key_file(&self) -> &Path {
        &self.files.key
    }

    /// The files.
    pub fn files(&self) -> Vec<PathBuf> {
        let TlsFiles { certificate, key, client_ca } = self.files.clone();
        [certificate, key].into_iter().chain(client_ca).collect()
    }

    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let texts = read(&files)?;
        let current = ArcSwap::from_pointee(config(&files, &texts)?);
        let ends = AtomicI64::new(life(&files, &texts)?.1);
        Ok(Arc::new(Self { files, current, ends }))
    }

    /// Reads them again: new connections get what they hold. An error changes nothing; a certificate that
    /// has ended at `now` is one.
    pub fn reload(&self, now: SystemTime) -> Result<(), TlsError> {
        let texts = read(&self.files)?;
        let (newer, (begins, ends)) = (config(&self.files, &texts)?, life(&self.files, &texts)?);
        let why = match seconds(now) {
            now if now >= ends => "has expired",
            now if now < begins => "is not valid yet",
            _ => "",
        };
        if !why.is_empty() {
            let path = self.files.certificate.display();
            return Err(TlsError(format!("{path} {why}: no client would take it")));
        }
        self.current.store(Arc::new(newer));
        self.ends.store(ends, Ordering::Relaxed);
        Ok(())
    }

    /// When our certificate ends, in seconds since 1970.
    pub fn ends(&self) -> i64 {
        self.ends.load(Ordering::Relaxed)
    }

    /// How long our certificate is good for still; `None`: it has expired.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = u64::try_from(self.ends() - seconds(now)).ok()?;
        Some(Duration::from_secs(left)).filter(|left| !left.is_zero())
    }

    /// Clients are asked for certificates.
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn read(files: &TlsFiles) -> Result<Texts, TlsError> {
    let all = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    let text = |path: &PathBuf| {
        textfile::read(path, FILE_LEN_MAX)
            .map_err(|error| TlsError(format!("{} cannot be read: {error}", path.display())))
    };
    all.into_iter().flatten().map(text).collect()
}

fn config(files: &TlsFiles, texts: &[Zeroizing<String>]) -> Result<ServerConfig, TlsError> {
    let [certificate, key, rest @ ..] = texts else {
        return Err(TlsError("a file is missing".to_owned()));
    };
    let chain = certificates(&files.certificate, certificate)?;
    let wrong = |path: &Path, what: &str| TlsError(format!("{} {what}", path.display()));
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| wrong(&files.key, "holds no private key in PEM"))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    let builder = match (&files.client_ca, rest.first()) {
        (Some(path), Some(text)) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path, text)? {
                roots.add(root).map_err(|_| wrong(path, "holds a certificate that cannot sign"))?;
            }
            // A bearer token may prove who calls instead.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong(path, &error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&files.certificate, &format!("and its key do not fit: {error}")))?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// From when until when all certificates of the chain are good, in seconds since 1970.
fn life(files: &TlsFiles, texts: &[Zeroizing<String>]) -> Result<(i64, i64), TlsError> {
    let text = texts.first().map_or("", |text| text.as_str());
    let (mut begins, mut ends) = (i64::MIN, i64::MAX);
    for certificate in certificates(&files.certificate, text)? {
        let Ok((_, parsed)) = X509Certificate::from_der(&certificate) else {
            let path = files.certificate.display();
            return Err(TlsError(format!("{path} holds a certificate that cannot be read")));
        };
        let validity = parsed.validity();
        begins = begins.max(validity.not_before.timestamp());
        ends = ends.min(validity.not_after.timestamp());
    }
    Ok((begins, ends))
}

fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let wrong = || TlsError(format!("{} holds no certificates in PEM", path.display()));
    all.ok().filter(|all| !all.is_empty()).ok_or_else(wrong)
}

/// What the certificates of a client prove, which were checked when its session began: whom the first names,
/// by the one URI of a workload in it (X.509-SVID section 2), and until when all are good.
pub(super) fn proven(chain: &[CertificateDer<'_>]) -> Option<Result<Certificate, &'static str>> {
    let first = chain.first()?;
    let ends = chain.iter().map(end).min().flatten();
    let unreadable = "cannot be read";
    let proven = |subject| Ok(Certificate { subject, ends: ends.ok_or(unreadable)? });
    Some(named(first).and_then(proven))
}

fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let ends = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends))
}

fn named(certificate: &CertificateDer<'_>) -> Result<Arc<str>, &'static str> {
    let unreadable = "cannot be read";
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| unreadable)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let mut uris = uris.fuse();
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err("must name one URI, and no other");
    };
    let fit = |c: char| c.is_ascii_alphanumeric() || "-._/:".contains(c);
    match Caller::named(uri) {
        Some(Caller::Spiffe(uri)) if uri.chars().all(fit) => Ok(uri.into()),
        _ => Err("must name a workload, as spiffe://DOMAIN/PATH"),
    }
}

//! A connection to Redis that is replaced when it fails, with our functions loaded.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Pipeline, RedisError,
    ServerErrorKind, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::identity::Identity;
use crate::store::keyring::hexadecimal;
use crate::store::redis::place::{Address, Place};

const LIBRARY: &str = include_str!("rotation.lua");
/// Bytes of the hash of the library that make its version.
const VERSION_BYTES: usize = 4;

/// The live connection, or how the last try to make one failed.
#[derive(Default)]
struct Live {
    connection: Option<MultiplexedConnection>,
    /// When it began.
    failed: Option<(Instant, RedisError)>,
}

/// Opens connections and keeps the live one.
pub(super) struct Session {
    place: Place,
    /// Where the live connection leads.
    connected: parking_lot::Mutex<Option<ConnectionAddr>>,
    config: AsyncConnectionConfig,
    live: Mutex<Live>,
    version: String,
    name: String,
    meta: String,
    /// Whose store it is; a server that belongs to another deployment is not talked to.
    deployment: OnceLock<String>,
    /// Connected anew, and nobody has asked since.
    reconnected: AtomicBool,
    /// Connections so far.
    connections: AtomicU64,
}

impl Session {
    /// `meta`: the key that says whose store it is. `purpose`: what it is for, where there are several.
    pub(super) fn new(
        address: &Address,
        prefix: &str,
        meta: String,
        purpose: Option<&str>,
    ) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(address.timeout))
            .set_response_timeout(Some(address.timeout));
        let hash = digest(&SHA256, LIBRARY.as_bytes());
        let version = hexadecimal(&hash.as_ref()[..VERSION_BYTES]);
        // Names of connections hold no spaces.
        let name = format!("token-broker:{}", prefix.replace(' ', "_"));
        let name = purpose.map_or(name.clone(), |purpose| format!("{name}:{purpose}"));
        let (place, live, deployment) = (Place::new(address)?, Mutex::default(), OnceLock::new());
        let (reconnected, connections) = (AtomicBool::new(false), AtomicU64::new(0));
        let connected = parking_lot::Mutex::new(None);
        Ok(Self {
            place,
            connected,
            config,
            live,
            version,
            name,
            meta,
            deployment,
            reconnected,
            connections,
        })
    }

    /// Gives the connection up where Sentinel says that another server is the primary now.
    pub(super) async fn follow(&self) {
        let connected = self.connected.lock().clone();
        let Some(connected) = connected else { return };
        if self.place.left(&connected).await {
            self.disconnect().await;
        }
    }

    /// From now on only servers of this deployment are talked to.
    pub(super) fn bind(&self, deployment: &str) {
        let _ = self.deployment.set(deployment.to_owned());
    }

    /// Gives the connection up.
    pub(super) async fn disconnect(&self) {
        self.live.lock().await.connection = None;
    }

    /// Whether another connection was made since this was asked last.
    pub(super) fn reconnected(&self) -> bool {
        self.reconnected.swap(false, Ordering::SeqCst)
    }

    /// How many connections were made so far: another number means another one, and perhaps another
    /// server.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// It belongs to another deployment.
    pub(super) fn is_foreign(&self, identity: &Identity) -> bool {
        self.deployment.get().is_some_and(|ours| identity.deployment != *ours)
    }

    /// Another server may have taken the place of the one that we knew.
    async fn greet(&self, fresh: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if self.deployment.get().is_none() {
            return Ok(());
        }
        let read = redis::cmd("HGET").arg(&self.meta).arg("identity").to_owned();
        let found: Option<Vec<u8>> = read.query_async(fresh).await?;
        // One that is empty becomes ours again; one that cannot be read is told of elsewhere.
        let found = found.and_then(|found| serde_json::from_slice::<Identity>(&found).ok());
        match found {
            Some(found) if self.is_foreign(&found) => Err(RedisError::from((
                ErrorKind::Client,
                "this Redis belongs to another deployment, and is not written to",
            ))),
            _ => Ok(()),
        }
    }

    /// How our connections are called on the server.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Opens a connection of its own, on which everything comes that is said in `channel`.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<PubSub, RedisError> {
        let mut link = self.place.primary().await?.get_async_pubsub().await?;
        link.subscribe(channel).await?;
        Ok(link)
    }

    /// Runs a command. An error leaves open whether it ran, unless the server says so.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let (mut connection, number) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        self.judge(number, answer).await
    }

    /// Runs commands in one round trip.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, RedisError> {
        let (mut connection, number) = self.connection().await?;
        let answer = commands.query_async(&mut connection).await;
        self.judge(number, answer).await
    }

    /// The same, through the connection of this number and no other.
    pub(super) async fn pipeline_on<T: FromRedisValue>(
        &self,
        number: u64,
        commands: &Pipeline,
    ) -> Result<T, RedisError> {
        let live = self.live.lock().await.connection.clone();
        let Some(mut connection) = live.filter(|_| self.connections() == number) else {
            return Err(RedisError::from((
                ErrorKind::Io,
                "the connection that was looked at is gone; another is looked at first",
            )));
        };
        let answer = commands.query_async(&mut connection).await;
        self.judge(number, answer).await
    }

    /// Calls one of our functions. If the server does not have it, it did nothing: it is loaded
    /// and called again.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        name: &str,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<T, RedisError> {
        let command = self.command(name, keys, arguments);
        match self.query(&command).await {
            Err(error) if missing_function(&error) => {
                self.load_library().await?;
                self.query(&command).await
            }
            answer => answer,
        }
    }

    /// The call of one of our functions.
    pub(super) fn command(&self, name: &str, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(self.function(name)).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        for argument in arguments {
            command.arg(*argument);
        }
        command
    }

    /// How the library of our functions is called.
    pub(super) fn library(&self) -> String {
        format!("tokenbroker_{}", self.version)
    }

    /// Whether what is loaded under the name of our library is ours; `None`: we may not look.
    pub(super) async fn library_is_ours(&self) -> Option<bool> {
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg(self.library()).arg("WITHCODE");
        let listed: Value = self.query(&list).await.ok()?;
        let ours = LIBRARY.replace("@V@", &self.version);
        Some(strings(&listed).any(|text| text == ours.as_bytes()))
    }

    /// The primary is where Sentinel says.
    pub(super) fn by_sentinel(&self) -> bool {
        matches!(self.place, Place::Sentinel(_))
    }

    /// Full name of one of our functions.
    fn function(&self, name: &str) -> String {
        format!("tb_{name}_{}", self.version)
    }

    /// Loads our functions beside those of other versions.
    pub(super) async fn load_library(&self) -> Result<(), RedisError> {
        match self.query::<String>(&self.load()).await {
            Err(error) if error.to_string().contains("already exists") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Loads our functions.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("FUNCTION");
        command.arg("LOAD").arg(LIBRARY.replace("@V@", &self.version));
        command
    }

    /// The live connection and its number, made anew where there is none.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
        let came = Instant::now();
        let mut live = self.live.lock().await;
        if let Some(connection) = &live.connection {
            return Ok((connection.clone(), self.connections()));
        }
        // Those who queued while somebody else tried in vain do not each try again.
        if let Some((_, error)) = live.failed.as_ref().filter(|(began, _)| *began >= came) {
            return Err(error.clone());
        }
        let began = Instant::now();
        match self.connect().await {
            Ok(fresh) => {
                self.reconnected.store(true, Ordering::SeqCst);
                let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
                *live = Live { connection: Some(fresh.clone()), failed: None };
                Ok((fresh, number))
            }
            Err(error) => {
                live.failed = Some((began, error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = &self.config;
        let client = self.place.primary().await?;
        let mut fresh = client.get_multiplexed_async_connection_with_config(config).await?;
        *self.connected.lock() = Some(client.get_connection_info().addr().clone());
        // Operators who look at the server see who is connected. A user without this right may not.
        let name = redis::cmd("CLIENT").arg("SETNAME").arg(&self.name).to_owned();
        let _: Result<String, _> = name.query_async(&mut fresh).await;
        self.greet(&mut fresh).await?;
        Ok(fresh)
    }

    /// Gives up a connection that timed out, broke, or leads to a server that cannot write; one that
    /// was made since stays.
    async fn judge<T>(&self, number: u64, answer: Result<T, RedisError>) -> Result<T, RedisError> {
        if let Err(error) = &answer
            && spoiled(error)
        {
            let mut live = self.live.lock().await;
            if self.connections() == number {
                live.connection = None;
            }
        }
        answer
    }
}

pub(super) fn spoiled(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Parse
                | ErrorKind::Server(
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::BusyLoading
                )
        )
}

/// All strings in an answer, however deep.
fn strings(answer: &Value) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match answer {
        Value::BulkString(text) => Box::new(std::iter::once(text.as_slice())),
        Value::Array(parts) => Box::new(parts.iter().flat_map(strings)),
        Value::Map(pairs) => {
            Box::new(pairs.iter().flat_map(|(name, value)| strings(name).chain(strings(value))))
        }
        _ => Box::new(std::iter::empty()),
    }
}

pub(super) fn missing_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

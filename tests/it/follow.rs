//! Two replicas on one Redis: what one changes, the other sees at once.

use std::time::Duration;

use token_broker::client::Client;
use token_broker::proto::{DeleteGrantRequest, GetTokenRequest, RotateGrantRequest};
use tokio::time::Instant;

use crate::herd::{import, redis_settings};
use crate::support::authority::Authority;
use crate::support::process::Program;
use crate::support::redis::RedisServer;

/// Others see a change within milliseconds; machines may be busy. Without events they would serve the
/// old token until it is due.
const AT_ONCE: Duration = Duration::from_secs(10);

struct World {
    authority: Authority,
    server: RedisServer,
    dir: tempfile::TempDir,
    programs: [Program; 2],
    clients: [Client; 2],
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let dir = tempfile::tempdir().unwrap();
        let server = RedisServer::start(&[]);
        let url = server.url();
        let settings = redis_settings(dir.path(), &base, &url);
        let replica = |name: &'static str| {
            let mut settings = settings.clone();
            settings.push(("TOKEN_BROKER__STORE__JOURNAL", name));
            Program::start(dir.path(), &["serve"], &settings)
        };
        let programs = [replica("a"), replica("b")];
        let connect = async |program: &Program| {
            Client::connect(&format!("http://{}", program.api)).await.unwrap()
        };
        let clients = [connect(&programs[0]).await, connect(&programs[1]).await];
        let world = Self { authority, server, dir, programs, clients };
        world.linked().await;
        world
    }

    /// Both hear each other.
    async fn linked(&self) {
        for program in &self.programs {
            for _ in 0..100 {
                if program.page("/metrics").contains("tokenbroker_store_events_up 1") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn import(&self) {
        let token = self.authority.consent("alice");
        import(&self.programs[0], self.dir.path(), "kroger/alice", &token);
    }

    /// What a replica serves: the generation, or the reason.
    async fn serves(&mut self, replica: usize) -> Result<i64, String> {
        let request = GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
        let token = self.clients[replica].tokens.get_token(request).await;
        token
            .map(|token| token.into_inner().token.unwrap().generation)
            .map_err(|status| status.message().to_owned())
    }

    async fn rotate(&mut self, replica: usize, generation: i64) -> i64 {
        let request = RotateGrantRequest {
            grant_id: "kroger/alice".to_owned(),
            expected_generation: generation,
        };
        let rotated = self.clients[replica].admin.rotate_grant(request).await.unwrap();
        rotated.into_inner().grant.unwrap().generation
    }

    /// How long it takes until a replica serves what is wanted.
    async fn until(
        &mut self,
        replica: usize,
        wanted: impl Fn(&Result<i64, String>) -> bool,
    ) -> Duration {
        let start = Instant::now();
        loop {
            let served = self.serves(replica).await;
            if wanted(&served) {
                return start.elapsed();
            }
            assert!(start.elapsed() < AT_ONCE, "{served:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_changes_the_other_serves_at_once() {
    let mut world = World::new().await;
    world.import();
    let mut generation = world.serves(0).await.unwrap();
    let mut waits = Vec::new();
    for round in 0..20 {
        let (here, there) = (round % 2, (round + 1) % 2);
        assert_eq!(world.serves(there).await, Ok(generation));
        generation = world.rotate(here, generation).await;
        let wanted = generation;
        waits.push(world.until(there, |served| *served == Ok(wanted)).await);
    }
    waits.sort();
    println!("a rotation is served elsewhere after {:?} (worst of {})", waits[19], waits.len());
    assert_eq!(world.authority.rotations(), 21, "nobody else rotated");
    world.authority.audit();
    // A deletion, and an import anew.
    let request = DeleteGrantRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
    world.clients[0].admin.delete_grant(request).await.unwrap();
    world
        .until(1, |served| served.as_ref().is_err_and(|why| why.contains("there is no grant")))
        .await;
    world.import();
    world.until(1, Result::is_ok).await;
    // Switched off and on.
    for command in ["disable", "enable"] {
        assert!(world.programs[0].cli(&["grant", command, "kroger/alice"]).0);
        let off = command == "disable";
        world.until(1, |served| served.is_err() == off).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_link_is_made_again_and_a_forged_event_moves_nothing() {
    let mut world = World::new().await;
    world.import();
    let generation = world.serves(0).await.unwrap();
    assert_eq!(world.serves(1).await, Ok(generation));
    world.server.cli(&["PUBLISH", "tb:events", &format!("{} 9 kroger/alice", generation + 9)]);
    world.server.cli(&["PUBLISH", "tb:events", "nonsense"]);
    assert_eq!(world.serves(1).await, Ok(generation));
    // What happens while nobody hears it is seen as soon as the link is there again.
    world.server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let generation = world.rotate(0, generation).await;
    world.until(1, |served| *served == Ok(generation)).await;
    world.linked().await;
    let generation = world.rotate(0, generation).await;
    world.until(1, |served| *served == Ok(generation)).await;
    world.authority.audit();
}

//! Rotations through the whole path: a caller's wait, the claim, one POST, the pair made durable.

use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream;

use crate::program::{Program, Store};
use crate::provider;

const GRANTS: usize = 5_000;
/// Callers at a time, each waiting for another grant.
const CALLERS: usize = 64;

/// Prints a table: rotations per second, and memory for each grant, by store.
pub(crate) async fn measure() {
    println!("\n{GRANTS} grants, {CALLERS} callers at a time, a provider that answers at once");
    println!("{:>10} {:>14} {:>18}", "store", "rotations/s", "bytes for a grant");
    let provider = provider::start().await;
    for store in Store::ALL {
        let program = Program::start(store, &provider).await;
        let grants: Vec<String> = (0..GRANTS).map(|number| format!("bench/{number}")).collect();
        let empty = program.resident();
        stream::iter(&grants).for_each_concurrent(CALLERS, |grant| program.import(grant)).await;
        #[expect(clippy::disallowed_methods, reason = "the program runs in real time")]
        let start = Instant::now();
        let get = async |grant: &String| drop(program.get(grant).await);
        stream::iter(&grants).for_each_concurrent(CALLERS, get).await;
        let elapsed = start.elapsed().as_secs_f64();
        let count = u32::try_from(GRANTS).unwrap();
        let bytes = program.resident().saturating_sub(empty) / u64::from(count);
        println!("{:>10} {:>14.0} {:>18}", store.name(), f64::from(count) / elapsed, bytes);
    }
}

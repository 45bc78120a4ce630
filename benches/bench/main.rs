//! `make bench`: what the broker costs, measured side by side with what cannot be cheaper.
//!
//! Machines are noisy, so figures are ratios of runs that alternate, and the median of many pairs.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

mod hot;
mod load;
mod program;
mod provider;
mod rotations;
mod trust;

fn main() {
    // Cargo passes this to benchmarks; without it, this is a test run that only has to build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // `cargo bench -- hot` runs one part.
    let wanted = |part: &str| {
        let named: Vec<String> =
            std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
        named.is_empty() || named.iter().any(|name| name == part)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("hot") {
            hot::compare().await;
        }
        if wanted("trust") {
            hot::compare_with_trust().await;
        }
        if wanted("rotations") {
            rotations::measure().await;
        }
    });
}

//! Compiles `proto/` with protox (no protoc needed) into the bindings and the descriptor set that
//! gRPC reflection serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const PROTOS: [&str; 3] = [
    "tokenbroker/v1/error_reason.proto",
    "tokenbroker/v1/grant_admin_service.proto",
    "tokenbroker/v1/token_service.proto",
];

/// Messages that hold a secret: their `Debug` is written by hand in `src/proto.rs`, and a message
/// missing there does not compile.
const SECRET_MESSAGES: [&str; 3] = [
    ".tokenbroker.v1.Token",
    ".tokenbroker.v1.ImportGrantRequest",
    ".tokenbroker.v1.CompleteEnrollmentRequest",
];

#[expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tokenbroker.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .skip_debug(SECRET_MESSAGES)
        .codec_path("crate::proto::Codec")
        // Written by hand: most of it is encoded once and sent often.
        .extern_path(".tokenbroker.v1.GetTokenResponse", "crate::proto::GetTokenResponse")
        .compile_fds(descriptors)?;
    Ok(())
}

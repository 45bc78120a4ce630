//! The answer to `GetToken`, as it goes over the wire.

use std::fmt;
use std::sync::Arc;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{
    DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len, message,
    skip_field,
};
use prost::{DecodeError, Message};

use super::Token;

/// Number of the field `token`.
const TOKEN: u32 = 1;

/// Answer to `GetToken`. Written by hand, because most of a token is the same in every answer: a
/// server encodes that once.
#[derive(Clone, Default, PartialEq)]
pub struct GetTokenResponse {
    /// The token; or, where `encoded` holds fields of it, the others.
    pub token: Option<Token>,
    /// Fields of the token, as protobuf. Empty in answers that were received.
    encoded: Arc<[u8]>,
}

impl GetTokenResponse {
    /// The token that has both the fields in `encoded` and those in `rest`.
    pub fn of(encoded: Arc<[u8]>, rest: Token) -> Self {
        Self { token: Some(rest), encoded }
    }

    /// Length of the token, if there is one.
    fn token_len(&self) -> Option<usize> {
        self.token.as_ref().map(|rest| self.encoded.len() + rest.encoded_len())
    }
}

impl Message for GetTokenResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if let (Some(rest), Some(length)) = (&self.token, self.token_len()) {
            encode_key(TOKEN, WireType::LengthDelimited, buffer);
            encode_varint(length as u64, buffer);
            buffer.put_slice(&self.encoded);
            rest.encode_raw(buffer);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            TOKEN => {
                let token = self.token.get_or_insert_default();
                message::merge(wire_type, token, buffer, context)
            }
            _ => skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let body = |length| key_len(TOKEN) + encoded_len_varint(length as u64) + length;
        self.token_len().map_or(0, body)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl fmt::Debug for GetTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetTokenResponse").field("token", &self.token).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_before_arrives_like_the_rest() {
        let fixed = Token {
            access_token: "canary".to_owned(),
            scopes: vec!["a".to_owned(), "b".to_owned()],
            ..Token::default()
        };
        let ttl = prost_types::Duration { seconds: 7, nanos: 0 };
        let rest = Token { ttl: Some(ttl), ..Token::default() };
        let reply = GetTokenResponse::of(fixed.encode_to_vec().into(), rest);
        assert_eq!(reply.encode_to_vec().len(), reply.encoded_len());
        let received = GetTokenResponse::decode(reply.encode_to_vec().as_slice()).unwrap();
        let whole = Token { ttl: Some(ttl), ..fixed };
        assert_eq!(received.token.as_ref(), Some(&whole));
        let plain = GetTokenResponse { token: Some(whole), ..GetTokenResponse::default() };
        assert_eq!(received, plain);
        assert!(!format!("{reply:?}{received:?}").contains("canary"));

        let empty = GetTokenResponse::default();
        assert!(empty.encode_to_vec().is_empty() && empty.encoded_len() == 0);
    }
}
